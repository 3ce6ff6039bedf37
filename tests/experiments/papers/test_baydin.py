"""Hypergradient descent against loops of numpy, and against what PyTorch draws."""

import jax
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers import one_training
from experiments.papers.adam import adam
from experiments.papers.baydin import BaydinMLP
from experiments.papers.baydin_vgg import BaydinVGG
from experiments.papers.images import images
from experiments.papers.torch_draws import TorchDraws
from hypergrad import tree

SMALL = BaydinMLP(
    source="digits",
    hidden=(7,),
    num_train=100,
    num_valid=50,
    mean=0.3,
    std=0.4,
    weight_decay=0.01,
    batch_size=24,  # 100 rows are 4 batches and one of 4 rows
    num_epochs=2,
)
METHODS = {"sgd": 1e-2, "sgdn": 1e-3, "adam": 1e-4}


def quiet(done, total):
    del done, total


def slopes(weights, x, y, decay):
    """Cross-entropy of a perceptron with one hidden layer, and all its derivatives."""
    (a, b), (c, d) = weights
    hidden = np.maximum(x @ a + b, 0.0)
    logits = hidden @ c + d
    logits -= logits.max(1, keepdims=True)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.mean(np.log(share[np.arange(len(y)), y]))
    out = (share - np.eye(share.shape[1])[y]) / len(y)
    back = (out @ c.T) * (hidden > 0)
    found = [x.T @ back, back.sum(0), hidden.T @ out, out.sum(0)]
    return loss, [g + decay * w for g, w in zip(found, (a, b, c, d), strict=True)]


def direction(method, state, t, k, g):
    """What is multiplied by −α, for tensor k in step t = 1, 2, ..."""
    if method == "sgd":
        return g
    if method == "sgdn":
        state[k] = 0.9 * state.get(k, 0.0) + g
        return g + 0.9 * state[k]
    m, v = state.get(k, (0.0, 0.0))
    state[k] = m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    step = np.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t)
    return step * m / (np.sqrt(v) + 1e-8)


def by_numpy(method, beta, tensor_by_tensor):
    """The α of each step and the loss of each batch, as the authors' optimisers go."""
    draws, paper = TorchDraws(3), SMALL
    layers = one_training.linear_layers(draws, (64, 7, 10))
    weights = [np.asarray(tensor) for tensor in jax.tree.leaves(layers)]
    draws.permutation(100)
    data = images("digits")
    inputs = (data.inputs - paper.mean) / paper.std
    alpha, before, state, t = paper.alpha, [0.0] * 4, {}, 0
    alphas, losses = [], []
    for _ in range(paper.num_epochs):
        order = draws.permutation(100)
        for start in range(0, 100, paper.batch_size):
            batch, t = order[start : start + paper.batch_size], t + 1
            pairs = (weights[0], weights[1]), (weights[2], weights[3])
            loss, grads = slopes(pairs, inputs[batch], data.labels[batch], 0.01)
            dots = [np.sum(g * u) for g, u in zip(grads, before, strict=True)]
            if not tensor_by_tensor:
                alpha += beta * sum(dots)
            for k, g in enumerate(grads):
                if tensor_by_tensor:
                    alpha += beta * dots[k]
                before[k] = direction(method, state, t, k, g)
                weights[k] = weights[k] - alpha * before[k]
            alphas.append(alpha)
            losses.append(loss)
    return alphas, losses


@pytest.mark.parametrize(
    ("method", "tensor_by_tensor"),
    [
        pytest.param("sgd", False, marks=pytest.mark.slow),
        ("sgdn", False),
        ("adam", True),
        pytest.param("adam", False, marks=pytest.mark.slow),
    ],
)
def test_against_numpy(method, tensor_by_tensor):
    beta = METHODS[method]
    options = {"method": method, "beta": beta, "tensor_by_tensor": tensor_by_tensor}
    paper = SMALL.model_copy(update=options)
    found = paper.measure(hg.HypergradientDescent(), 3, quiet)
    alphas, losses = by_numpy(method, beta, tensor_by_tensor)
    assert abs(alphas[-1] / alphas[0] - 1.0) > 0.1  # it moves
    np.testing.assert_allclose(found.curves["alpha"].y, alphas, rtol=1e-9)
    means = np.reshape(losses, (2, -1)).mean(1)
    np.testing.assert_allclose(found.curves["train_loss"].y, means, rtol=1e-9)
    last = found.curves["alpha_last"].y
    np.testing.assert_allclose(last, [alphas[4], alphas[9]], rtol=1e-9)
    assert found.numbers["alpha_max"] == max(found.curves["alpha"].y)


def test_no_beta_is_the_plain_method():
    plain = SMALL.model_copy(update={"method": "sgdn"}).measure(None, 3, quiet)
    _, losses = by_numpy("sgdn", 0.0, False)
    means = np.reshape(losses, (2, -1)).mean(1)
    np.testing.assert_allclose(plain.curves["train_loss"].y, means, rtol=1e-9)
    assert "alpha" not in plain.curves


def test_what_pytorch_draws():
    """Of torch.rand(3) and torch.randperm(10) after torch.manual_seed(0)."""
    rand = (TorchDraws(0).uniform(1.0, (3,)) + 1.0) / 2.0
    np.testing.assert_allclose(rand, [0.4963, 0.7682, 0.0885], atol=5e-5)
    order = [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]
    np.testing.assert_array_equal(TorchDraws(0).permutation(10), order)


def test_the_first_rates_of_the_authors(real_data):
    """From results/logreg of their repository: α of five steps, drawn as we draw."""
    del real_data
    data, draws = images("mnist"), TorchDraws(1)
    (layer,) = one_training.linear_layers(draws, (784, 10))
    w, b = np.asarray(layer.kernel), np.asarray(layer.bias)
    draws.permutation(60_000)
    batches = draws.permutation(60_000)[: 5 * 128].reshape(5, 128)
    alpha, before, alphas = 1e-3, np.zeros((785, 10)), []
    for batch in batches:
        x = (data.inputs[batch] - 0.1307) / 0.3081
        share = np.exp(x @ w + b)
        share /= share.sum(1, keepdims=True)
        out = (share - np.eye(10)[data.labels[batch]]) / 128
        g = np.vstack([x.T @ out, out.sum(0)]) + 1e-4 * np.vstack([w, b])
        alpha, before = alpha + 1e-3 * np.sum(g * before), g
        w, b = w - alpha * g[:-1], b - alpha * g[-1]
        alphas.append(alpha)
    theirs = [0.001, 0.013484508514, 0.024524224281, 0.033808337212, 0.039125432968]
    np.testing.assert_allclose(alphas, theirs, rtol=1e-6)


def test_adams_that_differ():
    """Where eps is added, and where v starts, after one step with g = 1e-7."""
    g, v = 1e-7, 1e-3 * 1e-14
    for options, expected in [
        ({}, g / (g + 1e-8)),
        ({"late_eps": True}, g / (g + 1e-8 / np.sqrt(1e-3))),
        ({"start": 1e-8}, g / (np.sqrt((0.999e-8 + v) / 1e-3) + 1e-8)),
        ({"idle": 1}, (0.1 * g / 0.19) / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)),
    ]:
        rule = adam(**options)
        found, _ = rule.update([np.array(g)], rule.init([np.array(0.0)]))
        np.testing.assert_allclose(jax.tree.leaves(found), expected, rtol=1e-6)


@pytest.mark.slow
def test_a_network_with_dropout_batch_statistics_and_moved_images():
    """α ← α + β g_{t+1} · u_t with g of the step that follows, its draws and all."""
    paper = BaydinVGG(
        source="digits",
        blocks=((4,), (6,)),
        hidden=(8,),
        shift=1,
        num_train=70,
        num_valid=30,
        batch_size=20,
        num_epochs=1,
        beta=1e-2,
    )
    functions, data, _ = paper.setting(3)
    found = paper.measure(hg.HypergradientDescent(), 3, quiet)
    problem = one_training.problem_of(functions, data)
    key = jax.random.key(3)

    @jax.jit
    def advance(state, t, alpha):
        def loss(weights):
            return problem.batch_loss(
                {"lr": alpha}, state._replace(weights=weights), t, key
            )

        return problem.step({"lr": alpha}, state, t, key), jax.grad(loss)(state.weights)

    state, alpha, move, alphas = problem.start({"lr": 0.0}, key), paper.alpha, None, []
    for t in range(3):  # 10 rows are left
        _, g = advance(state, t, alpha)
        if move is not None:
            alpha += float(paper.beta * tree.vdot(g, move))
        after, _ = advance(state, t, alpha)
        both = state.weights, after.weights
        move = jax.tree.map(lambda old, new: (old - new) / alpha, *both)  # noqa: B023
        state = after
        alphas.append(alpha)
    np.testing.assert_allclose(found.curves["alpha"].y, alphas, rtol=1e-8)
    assert abs(alphas[-1] / alphas[0] - 1.0) > 0.05


def test_an_estimator_of_whole_trainings_is_refused():
    with pytest.raises(ValueError, match="online one of single steps"):
        SMALL.model_copy(update={"beta": 1e-3}).measure(hg.Reverse(), 0, quiet)


def test_more_rows_than_there_are():
    with pytest.raises(ValueError, match="ask for fewer"):
        SMALL.model_copy(update={"num_train": 2000}).measure(None, 0, quiet)
    with pytest.raises(ValueError, match="batch_size must lie in"):
        SMALL.model_copy(update={"batch_size": 200}).measure(None, 0, quiet)
