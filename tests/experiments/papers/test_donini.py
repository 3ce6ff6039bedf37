"""MARTHE on a network against the recursion of its authors, and against its limits."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers.donini import MartheVGG
from experiments.papers.images import images
from experiments.papers.torch_draws import TorchDraws
from experiments.papers.vgg import largest, moved, vgg

LINEAR = MartheVGG(  # no block is a linear model
    source="digits",
    blocks=(),
    num_train=45,
    num_valid=40,
    batch_size=20,
    beta=1e-3,
    num_epochs=3,
    shift=0,
    flip=False,
)


def quiet(done, total):
    del done, total


def authors(paper, mu):
    """α by z ← μ (z − α (H z + m y)) − (m v + g), y ← μ (H z + m y), for 6 steps."""
    network = vgg((8, 8, 1), (), (), 0.0, 10, paper.mean, paper.std)
    layers, _ = network.init(jax.random.key(4))
    w, unravel = jax.flatten_util.ravel_pytree(layers)
    data = images("digits")
    inputs = jnp.asarray((data.inputs.astype(float) - paper.mean) / paper.std)
    labels = jnp.asarray(data.labels)

    def loss(w, rows):
        (layer,) = jax.tree.leaves(unravel(w), is_leaf=lambda x: "kernel" in x)
        logits = inputs[rows] @ layer["kernel"] + layer["bias"][None]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(20), labels[rows]])

    def decayed(w, rows):
        return loss(w, rows) + 0.5 * paper.weight_decay * jnp.sum(w**2)

    @jax.jit
    def advance(w, v, z, y, alpha, rows, judges):
        g, hz = jax.jvp(lambda w: jax.grad(decayed)(w, rows), (w,), (z,))
        v = paper.momentum * v + g
        past = hz + paper.momentum * y
        z, y = mu * (z - alpha * past) - v, mu * past
        w = w - alpha * v
        return w, v, z, y, alpha - paper.beta * (jax.grad(loss)(w, judges) @ z)

    draws, alphas = TorchDraws(4), [paper.alpha]
    orders = [draws.permutation(45)[:40].reshape(2, 20) for _ in range(3)]
    carry = (w, 0.0 * w, 0.0 * w, 0.0 * w, jnp.asarray(paper.alpha))
    for t, rows in enumerate(np.vstack(orders)):
        judges = 45 + np.arange(40).reshape(2, 20)[(t + 1) % 2]
        carry = advance(*carry, rows, judges)
        alphas.append(float(carry[-1]))
    return alphas[:-1]


@pytest.mark.parametrize("mu", [0.9, pytest.param(0.0, marks=pytest.mark.slow)])
def test_their_recursion(mu):
    found = LINEAR.measure(hg.MARTHE(mu=mu), 4, quiet)
    alphas = authors(LINEAR, mu)
    np.testing.assert_allclose(found.curves["alpha"].y, alphas, rtol=1e-9)
    assert abs(alphas[-1] / alphas[0] - 1.0) > 0.01
    assert found.numbers["alpha_last"] == found.curves["alpha"].y[-1]


@pytest.mark.slow
def test_limits_of_a_linear_model():
    gaps = LINEAR.model_copy(update={"num_checked": 4}).checked(4)
    assert set(gaps) == {"gap_zero", "gap_half", "gap_one", "gap_rtho"}
    assert max(gaps.values()) < 1e-12


@pytest.mark.slow
def test_limits_with_batch_statistics_and_moved_images():
    size = {"blocks": ((4,), (6,)), "num_checked": 5, "shift": 1}
    assert max(LINEAR.model_copy(update=size).checked(4).values()) < 1e-12


def test_the_largest_of_four_pixels():
    x = np.arange(30.0).reshape(1, 5, 3, 2)
    np.testing.assert_array_equal(largest(jnp.asarray(x)), x[:, 1:4:2, 1:2])
    single = x[:, :1]
    np.testing.assert_array_equal(largest(jnp.asarray(single)), single[:, :, 1:2])


def test_moved_images_keep_their_pixels(key):
    x = jax.random.uniform(key, (6, 4, 4, 1))
    out = np.asarray(jax.jit(moved(2, True))(key, x))
    for before, after in zip(np.asarray(x), out, strict=True):
        kept = after[after != 0]
        assert np.isin(kept, before).all()
        assert kept.size >= 4
    np.testing.assert_array_equal(jax.jit(moved(0, False))(key, x), x)
