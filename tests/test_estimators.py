"""Every estimator of dF/dλ against closed forms, and against the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from experiments.papers.vicol_influence import influence_balancing
from hypergrad.gradients import Mixed, Plain
from tests.oracles import Ridge
from tests.problems import cubic, digits, relative, ridge

EXACT = {
    "reverse none": hg.Reverse(hg.NoCheckpoint()),
    "reverse every": hg.Reverse(hg.EveryStep()),
    "reverse segments": hg.Reverse(hg.Segments()),
    "reverse segments of 5": hg.Reverse(hg.Segments(5)),
    "reverse tree": hg.Reverse(hg.Tree()),
    "reverse plain": hg.Reverse(hg.NoCheckpoint(), gradient=Plain()),
    "forward": hg.Forward(),
    "forward in chunks": hg.Forward(chunk=3),
}
ALL = EXACT | {"differences": hg.FiniteDifference(step=2e-4, order=4)}
T = 12


def closed_forms():
    data = Ridge.make()
    rates = 0.1 + 0.02 * np.arange(T)
    feature = 0.1 * (1 + np.arange(4.0))
    value, momentum = data.momentum(0.1, 0.6, 0.2, T)
    return {
        "rate": ({"lr": 0.1, "l2": 0.2}, "lr", *data.rate(0.1, 0.2, T)),
        "momentum": (
            {"lr": 0.1, "momentum": 0.6, "l2": 0.2},
            "momentum",
            value,
            momentum,
        ),
        "scalar l2": (
            {"lr": 0.1, "l2": 0.2},
            "l2",
            data.l2(0.1, 0.2, T)[0],
            data.l2(0.1, 0.2, T)[1].sum(),
        ),
        "l2 per feature": (
            {"lr": 0.1, "l2": feature},
            "l2",
            *data.l2(0.1, feature, T),
        ),
        "schedule": ({"lr": rates, "l2": 0.2}, "lr", *data.schedule(rates, 0.2)),
    }


@pytest.mark.parametrize("case", closed_forms())
@pytest.mark.parametrize("name", ALL)
def test_closed_form_of_ridge(name, case, key):
    hparams, which, value, slope = closed_forms()[case]
    got, gradient = hg.value_and_hypergrad(ridge(T), ALL[name])(hparams, key)
    np.testing.assert_allclose(got, value, rtol=1e-12)
    assert relative(gradient[which], slope) < 1e-9


@pytest.mark.parametrize("name", ["reverse every", "reverse tree", "forward"])
def test_transformations_agree_with_the_plain_call(name, key):
    hparams = {"lr": jnp.asarray(0.1), "l2": jnp.linspace(0.1, 0.4, 4)}
    problem, estimator = ridge(T, batch_size=5), EXACT[name]
    fn = hg.value_and_hypergrad(problem, estimator)
    value, expected = fn(hparams, key)

    jitted = jax.jit(fn)(hparams, key)
    assert relative(jitted, (value, expected)) < 1e-12

    objective = hg.objective(problem, estimator)
    assert relative(jax.grad(objective)(hparams, key), expected) < 1e-12
    _, tangent = jax.jvp(lambda h: objective(h, key), (hparams,), (expected,))
    square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(expected))
    np.testing.assert_allclose(tangent, square, rtol=1e-12)

    scales = jnp.array([0.5, 1.0, 2.0])
    many = jax.tree.map(lambda x: jnp.multiply.outer(scales, x), hparams)
    over_hparams = jax.vmap(jax.grad(objective), (0, None))(many, key)
    one = jax.tree.map(lambda x: x[1], over_hparams)
    assert relative(one, expected) < 1e-12

    keys = jax.random.split(key, 3)
    over_keys = jax.vmap(fn, (None, 0))(hparams, keys)
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], over_keys)
        assert relative(one, fn(hparams, keys[i])) < 1e-12
    assert not np.allclose(over_keys[0][0], over_keys[0][1]), "keys change the batches"


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 1e-4)])
def test_estimators_agree_on_the_digits_mlp(dtype, tolerance, key):
    with jax.enable_x64(dtype == "float64"):
        problem, hparams = digits(11, dtype=jnp.dtype(dtype))
        results = {
            name: hg.value_and_hypergrad(problem, estimator)(hparams, key)[1]
            for name, estimator in EXACT.items()
        }
        reference = results["forward"]
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(reference))
        for name, result in results.items():
            assert relative(result, reference) < tolerance, name


@pytest.mark.slow
def test_finite_differences_of_the_digits_mlp(key):
    problem, hparams = digits(6)
    exact = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    difference = hg.hypergrad(problem, hg.FiniteDifference(order=4))(hparams, key)
    assert relative(difference, exact) < 1e-8


def test_window_keeps_the_last_steps_only(key):
    # s_T = λ^T; of T equal terms λ^(T−1), the window keeps K.
    for window in (1, 2, 3, 7):
        gradient = hg.hypergrad(cubic(3), hg.Reverse(window=window))(2.0, key)
        np.testing.assert_allclose(gradient, min(window, 3) * 4.0)


def test_window_with_a_loss_at_every_step(key):
    # F = Σ_t λ^t, windows of 2 ending at T = 5: {1}, {2, 3}, {4, 5}.
    problem = cubic(5, outer_every=1)
    gradient = hg.hypergrad(problem, hg.Reverse(window=2))(2.0, key)
    s = 2.0 ** np.arange(6)
    expected = s[0] + (s[1] + 2 * s[2]) + (s[3] + 2 * s[4])
    np.testing.assert_allclose(gradient, expected)
    exact = hg.hypergrad(problem, hg.Forward())(2.0, key)
    np.testing.assert_allclose(exact, sum(t * s[t - 1] for t in range(1, 6)))


def test_truncation_error_obeys_its_bound(key):
    """Shaban et al. 2019: at curvature μ the error falls as (1 − αμ)^K."""
    problem = ridge(60)
    hparams = {"lr": 0.1, "l2": jnp.full(4, 0.1)}
    data = Ridge.make()
    mu = np.linalg.eigvalsh(data.quadratic(0.1)[0]).min()
    exact = hg.hypergrad(problem, hg.Forward())(hparams, key)["l2"]
    for window in (5, 10, 20, 40):
        cut = hg.hypergrad(problem, hg.Reverse(window=window))(hparams, key)["l2"]
        assert relative(cut, exact) <= 2 * (1 - 0.1 * mu) ** window


@pytest.mark.parametrize("estimator", [hg.Reverse(hg.Segments()), hg.Forward()])
def test_influence_balancing_reaches_its_optimum(estimator, key):
    """Vicol et al. 2021: s_1 = −6 θ, so θ* = −1/6, and F(1/2) = 8."""
    problem = influence_balancing(500)
    fn = jax.jit(hg.value_and_hypergrad(problem, estimator))
    value, _ = fn(0.5, key)
    np.testing.assert_allclose(value, 8.0, rtol=1e-6)

    def step(theta, _):
        return theta - 1e-3 * fn(theta, key)[1], None

    theta, _ = jax.jit(lambda t: jax.lax.scan(step, t, length=400))(jnp.asarray(0.5))
    np.testing.assert_allclose(theta, -1 / 6, atol=1e-6)


def test_truncated_windows_of_influence_balancing_point_the_wrong_way(key):
    """Vicol et al. 2021: short windows have the wrong sign, by design."""
    problem = influence_balancing(500)
    exact = hg.hypergrad(problem, hg.Reverse())(0.5, key)
    short = hg.hypergrad(problem, hg.Reverse(window=5))(0.5, key)
    assert exact > 0 > short


def test_integers_and_keys_in_hparams_carry_no_tangent(key):
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jax.random.normal(hp["key"]) ** 0 * hp["x"],
        step=lambda hp, s, tick: s * hp["x"],
        outer_at=lambda hp, s, tick: s * hp["n"],
        num_steps=2,
    )
    hparams = {"x": 2.0, "n": 3, "key": jax.random.key(7)}
    for estimator in (hg.Reverse(), hg.Forward(), hg.FiniteDifference()):
        gradient = hg.hypergrad(problem, estimator)(hparams, key)
        np.testing.assert_allclose(gradient["x"], 3 * 3 * 2.0**2, rtol=1e-9)
        assert gradient["n"].dtype == jax.dtypes.float0
        objective = hg.objective(problem, estimator)
        partial = jax.grad(lambda x: objective(hparams | {"x": x}, key))  # noqa: B023
        np.testing.assert_allclose(partial(2.0), 36.0, rtol=1e-9)


def test_value_alone(key):
    estimate, state = hg.estimate(cubic(3), hg.Value(), 2.0, (), key)
    assert (float(estimate.value), estimate.hypergrad, state) == (8.0, None, ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hg.Reverse(window=0), "window must be >= 1"),
        (lambda: hg.Forward(chunk=0), "chunk must be >= 1"),
        (lambda: hg.FiniteDifference(step=-1.0), "step must be > 0"),
        (lambda: hg.FiniteDifference(order=3), "order must be 2 or 4"),
        (lambda: hg.Segments(0), "length must be >= 1"),
        (lambda: hg.Tree(0), "depth must be >= 1"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_hparams_without_floats_are_refused(key):
    with pytest.raises(ValueError, match=r"write 1\.0 rather than 1"):
        hg.hypergrad(cubic(), hg.Reverse())(2, key)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_are_refused_rather_than_wrong(dtype, key):
    with pytest.raises(ValueError, match="pass it in float32"):
        hg.hypergrad(cubic(), hg.Reverse())({"lr": jnp.ones((), dtype)}, key)


def test_default_differences_suit_a_small_rate_in_float32(key):
    with jax.enable_x64(False):
        problem, hparams = ridge(10), {"lr": 0.01, "l2": 1e-3}
        exact = hg.hypergrad(problem, hg.Forward())(hparams, key)
        difference = hg.hypergrad(problem, hg.FiniteDifference())(hparams, key)
    np.testing.assert_allclose(difference["lr"], exact["lr"], rtol=0.01)


def test_mixed_and_plain_gradients_agree_for_the_data_too(key):
    """A training set that is scaled from outside is a hyperparameter like any other."""
    x, y = ridge(5).data.train

    def value(scale, gradient):
        problem = ridge(5, train=(x * scale, y))
        hparams = {"lr": jnp.asarray(0.1), "l2": jnp.asarray(0.1)}
        return hg.unroll(problem, hparams, key, gradient=gradient)[0]

    mixed, plain = (jax.grad(value)(1.0, g) for g in (Mixed(), Plain()))
    np.testing.assert_allclose(mixed, plain, rtol=1e-12)
    assert abs(mixed) > 1e-3


def test_mixed_serves_a_loss_with_a_reverse_rule_of_its_own(key):
    """Forward mode through a `jax.custom_vjp` is refused: the other order serves."""

    @jax.custom_vjp
    def error(w, batch):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2)

    def pull(residuals, cotangent):
        w, (x, y) = residuals
        by_rows = 2.0 * cotangent * (x @ w - y) / len(y)
        return x.T @ by_rows, (jnp.outer(by_rows, w), -by_rows)

    error.defvjp(lambda w, batch: (error(w, batch), (w, batch)), pull)

    def hypergrad(loss):
        def inner_loss(w, hp, batch):
            return loss(w, batch) + hg.l2(w, hp["l2"])

        hparams = {"lr": jnp.asarray(0.1), "l2": jnp.asarray(0.1)}
        return hg.hypergrad(ridge(7, inner_loss=inner_loss), hg.Reverse())(hparams, key)

    expected = hypergrad(lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2))
    assert relative(hypergrad(error), expected) < 1e-12
