"""jaxopt: the implicit derivative of a root by its own conjugate gradients."""

import functools

import jax
import jax.numpy as jnp
from jaxopt.implicit_diff import root_vjp
from jaxopt.linear_solve import solve_cg

from benchmarks.peers.program import Job, Outcome, Program


def implicit(job: Job) -> Program:
    """`root_vjp` of ∇_w ℓ = 0 at the solution, compiled."""
    train, valid = (tuple(job.group(name).values()) for name in ("train", "valid"))
    arrays = jax.tree.map(jnp.asarray, (job.arrays["weights"], job.arrays["log_l2"]))
    solve = functools.partial(
        solve_cg,
        tol=job.settings["tolerance"],
        maxiter=job.settings["max_iterations"],
    )
    optimality = jax.grad(_regularised)

    @jax.jit
    def value_and_hypergrad(weights, log_l2, train, valid):
        value, slope = jax.value_and_grad(_cross_entropy)(weights, valid)
        of_l2, _ = root_vjp(optimality, weights, (log_l2, train), slope, solve)
        return value, of_l2

    arguments = (*arrays, *jax.tree.map(jnp.asarray, (train, valid)))
    jax.block_until_ready(value_and_hypergrad(*arguments))

    def run():
        value, found = jax.block_until_ready(value_and_hypergrad(*arguments))
        return Outcome(float(value), {"log_l2": found})

    return Program(run)


def _cross_entropy(weights, batch):
    inputs, labels = batch
    log_p = jax.nn.log_softmax(inputs @ weights)
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


def _regularised(weights, log_l2, batch):
    penalty = 0.5 * jnp.sum(jnp.exp(log_l2) * weights**2)
    return _cross_entropy(weights, batch) + penalty
