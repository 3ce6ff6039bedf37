"""Losses against scipy's softmax and optax, and the mean that weights ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy.special import log_softmax

from hypergrad.losses import cross_entropy, weighted_mean

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)) * 3
LABELS = RNG.integers(0, 4, size=6)
SOFT = RNG.dirichlet(np.ones(4), size=6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["integers", "probabilities"])
def test_value_is_the_formula(labels, smoothing):
    targets = np.eye(4)[labels] if labels.ndim == 1 else labels
    targets = (1 - smoothing) * targets + smoothing / 4
    expected = -np.sum(targets * log_softmax(LOGITS, axis=-1), axis=-1)
    got = jax.jit(cross_entropy)(LOGITS, labels, smoothing)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_integers_are_those_of_optax_in_any_shape():
    logits, labels = jnp.asarray(LOGITS).reshape(2, 3, 4), LABELS.reshape(2, 3)
    oracle = optax.softmax_cross_entropy_with_integer_labels
    expected = jax.jit(oracle)(logits, labels)
    got = jax.jit(cross_entropy)(logits, labels)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_derivatives():
    check_grads(
        jax.jit(lambda z, q, s: cross_entropy(z, LABELS, s) * cross_entropy(z, q, s)),
        (LOGITS, SOFT, 0.1),
        order=1,
    )


@pytest.mark.parametrize(
    "labels", [SOFT[:, :3], SOFT[0], LABELS[:3], LABELS[:, None], LABELS.astype(float)]
)
def test_labels_that_do_not_fit_say_so(labels):
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(6,\)"):
        cross_entropy(LOGITS, labels)


@jax.jit
def both(logits, labels):
    """The losses, and the gradient of their sum."""
    losses, back = jax.vjp(lambda z: cross_entropy(z, labels), logits)
    return losses, back(jnp.ones_like(losses))[0]


def test_labels_out_of_range_are_nan_and_so_is_their_gradient():
    labels = np.array([0, -1, 4, 3, -5, 2])
    wrong = (labels < 0) | (labels > 3)
    losses, slopes = both(LOGITS, labels)
    np.testing.assert_array_equal(np.isnan(losses), wrong)
    np.testing.assert_array_equal(np.isnan(slopes), np.repeat(wrong[:, None], 4, 1))


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.eye(3)[:2]], ids=str)
def test_a_masked_class_costs_the_others_nothing(labels):
    logits = np.array([[0.5, 1.0, -np.inf], [0.2, 0.3, -np.inf]])
    losses, slopes = both(logits, labels)
    of_two = log_softmax(logits[:, :2], axis=-1)
    np.testing.assert_allclose(losses, -np.diag(of_two), rtol=1e-12)
    expected = np.pad(np.exp(of_two), ((0, 0), (0, 1))) - np.eye(3)[:2]
    np.testing.assert_allclose(slopes, expected, rtol=1e-12)
    assert np.isinf(jax.jit(cross_entropy)(logits, labels, 0.1)).all()


def test_the_mean_over_batches_is_the_loss_of_all_rows():
    """True of division by n alone: Σ w ℓ / Σ w differs from batch to batch."""
    losses, weights = RNG.uniform(size=12), RNG.uniform(size=12)
    batches = RNG.permutation(12).reshape(4, 3)
    each = [weighted_mean(losses[rows], weights[rows]) for rows in batches]
    np.testing.assert_allclose(np.mean(each), weighted_mean(losses, weights))
    np.testing.assert_allclose(weighted_mean(losses, np.ones(12)), losses.mean())
    np.testing.assert_allclose(
        jax.grad(weighted_mean, argnums=1)(losses, weights), losses / 12
    )
    assert weighted_mean(losses, np.zeros(12)) == 0


def test_one_weight_for_each_example():
    with pytest.raises(ValueError, match=r"weights must have the shape \(6,\)"):
        weighted_mean(np.ones(6), np.ones(5))
