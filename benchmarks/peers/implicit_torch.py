"""The implicit derivative in torch: by hand, and by TorchOpt's `custom_root`."""

import torch
import torchopt
from torch.nn import functional

from benchmarks.peers.program import Job, Outcome, Program

torch.set_num_threads(1)


def plain(job: Job) -> Program:
    """Conjugate gradients whose products are double backward passes."""
    weights, log_l2, train, valid = _handed_over(job)
    tolerance, most = job.settings["tolerance"], job.settings["max_iterations"]

    def run():
        w, l2 = weights.clone().requires_grad_(), log_l2.clone().requires_grad_()
        value = _cross_entropy(w, valid)
        (slope,) = torch.autograd.grad(value, w)
        loss = _regularised(w, l2, train)
        (gradient,) = torch.autograd.grad(loss, w, create_graph=True)

        def product(v):
            return torch.autograd.grad(gradient, w, v, retain_graph=True)[0]

        v = _conjugate_gradients(product, slope, tolerance, most)
        (of_l2,) = torch.autograd.grad(gradient, l2, v)
        return Outcome(value.item(), {"log_l2": -of_l2.numpy()})

    run()  # what torch loads when it is first used is not the hypergradient's memory
    return Program(run)


def with_torchopt(job: Job) -> Program:
    """A solver that returns the solution, decorated with `custom_root`."""
    weights, log_l2, train, valid = _handed_over(job)
    optimality = torch.func.grad(_regularised)
    solve = torchopt.linear_solve.solve_cg(
        rtol=job.settings["tolerance"], maxiter=job.settings["max_iterations"]
    )

    @torchopt.diff.implicit.custom_root(
        lambda w, l2: optimality(w, l2, train), argnums=1, solve=solve
    )
    def solver(start, log_l2):
        return weights

    def run():
        l2 = log_l2.clone().requires_grad_()
        value = _cross_entropy(solver(weights, l2), valid)
        (found,) = torch.autograd.grad(value, l2)
        return Outcome(value.item(), {"log_l2": found.numpy()})

    run()  # what torch loads when it is first used is not the hypergradient's memory
    return Program(run)


def _conjugate_gradients(product, b, tolerance, most):
    x, r = torch.zeros_like(b), b
    p, size = r, torch.sum(r * r)
    stop = tolerance**2 * size
    for _ in range(most):
        if size <= stop:
            break
        ap = product(p)
        alpha = size / torch.sum(p * ap)
        x, r = x + alpha * p, r - alpha * ap
        new = torch.sum(r * r)
        p, size = r + new / size * p, new
    return x


def _handed_over(job: Job):
    def rows(name):
        inputs, labels = job.group(name).values()
        return torch.as_tensor(inputs).float(), torch.as_tensor(labels).long()

    arrays = (torch.as_tensor(job.arrays[n]).float() for n in ("weights", "log_l2"))
    return (*arrays, rows("train"), rows("valid"))


def _cross_entropy(weights, batch):
    inputs, labels = batch
    return functional.cross_entropy(inputs @ weights, labels)


def _regularised(weights, log_l2, batch):
    penalty = 0.5 * torch.sum(torch.exp(log_l2) * weights**2)
    return _cross_entropy(weights, batch) + penalty
