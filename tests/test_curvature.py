"""Operators: Gauss-Newton against dense algebra, marks, negative curvature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad import tree
from hypergrad.curvature import GaussNewton, Hessian, Point
from hypergrad.estimators.implicit import Implicit
from hypergrad.models import mlp
from hypergrad.outputs import cut_at_outputs, outputs
from tests.problems import relative, ridge


def network():
    """(problem, model, loss, data): a net of 3-4-2, its logits marked."""
    model = mlp((3, 4, 2))
    rng = np.random.default_rng(0)
    data = (jnp.asarray(rng.normal(size=(12, 3))), jnp.arange(12) % 2)

    def cross_entropy(z, y):
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()

    @jax.jit
    def inner(w, hp, batch):
        z = outputs(model.apply(w, batch[0]))
        return cross_entropy(z, batch[1]) + hg.l2(w, hp["l2"])

    problem = hg.Problem(
        init=lambda key, hp: model.init(key),
        inner_loss=inner,
        outer_loss=lambda w, hp, b: cross_entropy(model.apply(w, b[0]), b[1]),
        optimizer=lambda hp: optax.sgd(0.5),
        train=data,
        valid=data,
        num_steps=5,
    )
    return problem, model, cross_entropy, data


def test_gauss_newton_is_its_dense_product(key):
    """Jᵀ (∂²L/∂z²) J + λ I written out; the Hessian is something else."""
    problem, model, cross_entropy, (x, y) = network()
    hparams = {"l2": jnp.asarray(0.01)}
    end = problem.start(hparams, key)
    vector, unravel = tree.ravel(end.weights)

    @jax.jit
    def written_out(v):
        logits = lambda v: model.apply(unravel(v), x).ravel()
        j = jax.jacobian(logits)(v)
        of_z = jax.hessian(lambda z: cross_entropy(z.reshape(12, 2), y))(logits(v))
        return j.T @ of_z @ j + 0.01 * jnp.eye(v.size)

    expected = written_out(vector)

    @functools.partial(jax.jit, static_argnums=0)
    def dense(operator):
        x, rebuild = operator.unknowns(problem, end)
        point = Point(hparams, lambda h: h, x, rebuild, None, key)
        at = operator.linearise(problem, point)
        rows = jax.vmap(lambda e: tree.ravel(at.pull(unravel(e))[0])[0])
        return rows(jnp.eye(vector.size)), at.residual

    gauss_newton, residual = dense(GaussNewton())
    np.testing.assert_allclose(gauss_newton, expected, atol=1e-12)
    hessian, gradient = dense(Hessian())
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    assert relative(hessian, expected) > 0.1
    assert relative(residual, gradient) < 1e-12


def test_marks_are_found_or_asked_for(key):
    a = jnp.arange(1.0, 4.0)
    two = lambda w: jnp.sum(outputs(jnp.sin(a * w)) ** 2) + jnp.sum(outputs(w * w))
    for loss in (two, jax.jit(two), jax.jit(lambda w: 2 * jax.jit(two)(w) / 2)):
        model, of_outputs = cut_at_outputs(loss, a)
        assert len(model(a)) == 2
        np.testing.assert_allclose(of_outputs(a, model(a)), loss(a), rtol=1e-12)
        np.testing.assert_allclose(of_outputs(a, [a, a]), jnp.sum(a**2) + jnp.sum(a))
    with pytest.raises(ValueError, match="marks them nowhere: in it, write z ="):
        hg.hypergrad(ridge(3), Implicit(GaussNewton()))({"lr": 0.1, "l2": 0.1}, key)
    hidden = jax.checkpoint(two)
    for loss in (hidden, lambda w: two(w) + hidden(w)):
        with pytest.raises(ValueError, match="marks them inside of a loop"):
            cut_at_outputs(loss, a)


def test_negative_curvature_is_named(key):
    """Training stays on the saddle of w_0² − w_1²: no minimum."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(2),
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: jnp.sum((s - 1) ** 2),
        inner_loss_at=lambda hp, s, tick: hp * (s[0] ** 2 - s[1] ** 2),
        num_steps=1,
    )
    with pytest.warns(hg.HypergradWarning, match="met the curvature"):
        hg.hypergrad(problem, Implicit())(1.0, key)
