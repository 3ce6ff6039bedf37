"""Implicit differentiation against closed forms, dense algebra and unrolling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad import tree
from hypergrad.curvature import FixedPoint, GaussNewton, Hessian
from hypergrad.estimators.implicit import Implicit, ImplicitState
from hypergrad.linear_solvers import (
    CG,
    GMRES,
    Dense,
    IdentityInverse,
    Neumann,
    NormalCG,
    Nystrom,
)
from hypergrad.outputs import outputs
from tests.oracles import Ridge
from tests.problems import cubic, relative, ridge
from tests.test_export import STABLE, lowers

FEATURES = 0.1 * (1 + np.arange(4.0))
slow = pytest.mark.slow
HPARAMS = {"lr": 0.5, "l2": FEATURES}


def marked(weights, hparams, batch):
    """The inner loss of ridge, its predictions marked."""
    x, y = batch
    z = outputs(x @ weights)
    return 0.5 * jnp.mean((z - y) ** 2) + hg.l2(weights, hparams["l2"])


def closed_form(l2, damping=0.0):
    """Ridge at its minimum: dF/dλ_j = −(H⁻¹ ∇outer)_j w_j."""
    data = Ridge.make()
    h, b = data.quadratic(l2)
    w = np.linalg.solve(h, b)
    value, slope = data.outer(w)
    v = np.linalg.solve(h + damping * np.eye(len(w)), slope)
    return value, -v * w


CONVERGED = {
    "hessian cg": Implicit(),
    "hessian normal": Implicit(solver=NormalCG()),
    "hessian gmres": Implicit(solver=GMRES()),
    "hessian neumann": Implicit(solver=Neumann(max_iterations=500)),
    "hessian dense": Implicit(solver=Dense()),
    "gauss-newton cg": Implicit(GaussNewton()),
    "fixed point gmres": Implicit(FixedPoint()),
    "fixed point normal": Implicit(FixedPoint(), solver=NormalCG()),
    "fixed point neumann": Implicit(FixedPoint(), solver=Neumann(500)),
    "fixed point series": Implicit(FixedPoint(), solver=Neumann(500, scale=1.0)),
    "fixed point dense": Implicit(FixedPoint(), solver=Dense()),
}


BY_DEFAULT = ("hessian cg", "fixed point gmres")


@pytest.mark.parametrize(
    "name",
    [n if n in BY_DEFAULT else pytest.param(n, marks=slow) for n in CONVERGED],
)
def test_closed_form_of_converged_ridge(name, key):
    """No warning either: the suite turns warnings into errors."""
    problem = ridge(300, inner_loss=marked)
    fn = hg.value_and_hypergrad(problem, CONVERGED[name], has_aux=True)
    (value, info), gradient = fn(HPARAMS, key)
    expected, slope = closed_form(FEATURES)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert relative(gradient["l2"], slope) < 1e-8
    assert abs(float(gradient["lr"])) < 1e-12
    assert not bool(info.doubtful)
    assert float(info.residual) < 1e-8
    assert float(info.stationarity) < 1e-8


@slow
def test_fixed_point_of_momentum_with_a_schedule(key):
    """The state holds velocities, and a count, which is held."""
    problem = ridge(300)
    hparams = {"lr": jnp.full(2, 0.3), "momentum": 0.5, "l2": FEATURES}
    gradient = hg.hypergrad(problem, Implicit(FixedPoint()))(hparams, key)
    assert relative(gradient["l2"], closed_form(FEATURES)[1]) < 1e-8
    assert abs(float(gradient["momentum"])) < 1e-12


@pytest.mark.parametrize(
    ("estimator", "steps"),
    [
        (Implicit(solver=CG(max_iterations=1)), 300),
        (Implicit(), 10),
        *(
            pytest.param(estimator, steps, marks=slow)
            for estimator, steps in [
                (Implicit(FixedPoint(), solver=GMRES(max_iterations=2)), 300),
                (Implicit(solver=Nystrom(rank=2, rho=0.01)), 300),
                (Implicit(solver=Neumann(scale=30.0, max_iterations=20)), 300),
                (Implicit(FixedPoint()), 10),
            ]
        ),
    ],
    ids=["cg 1", "short", "gmres 2", "nystrom 2", "neumann diverges", "short map"],
)
def test_what_misses_the_closed_form_says_so(estimator, steps, key):
    fn = hg.value_and_hypergrad(ridge(steps), estimator, has_aux=True)
    with pytest.warns(hg.HypergradWarning) as record:
        (_, info), gradient = fn(HPARAMS, key)
    assert not relative(gradient["l2"], closed_form(FEATURES)[1]) < 1e-6
    text = str(record[-1].message)
    assert f"relative residual {float(info.residual):.2g}" in text
    assert f"left {float(info.stationarity):.2g} of" in text
    assert bool(info.doubtful)


@slow
def test_never_doubtful_and_wrong(key):
    """Over training lengths: whatever is not doubtful is right to 1e-6."""
    _, slope = closed_form(FEATURES)
    verdicts = []
    for steps in (5, 40, 160):
        fn = jax.jit(hg.value_and_hypergrad(ridge(steps), Implicit(), has_aux=True))
        (_, info), gradient = fn(HPARAMS, key)
        verdicts.append(bool(info.doubtful))
        assert verdicts[-1] or relative(gradient["l2"], slope) < 1e-6
    assert verdicts == sorted(verdicts, reverse=True)
    assert not verdicts[-1]
    assert verdicts[0]


def test_damping_solves_the_damped_system(key):
    estimator = Implicit(damping=0.3)
    gradient = hg.hypergrad(ridge(300), estimator)(HPARAMS, key)
    _, expected = closed_form(FEATURES, damping=0.3)
    assert relative(gradient["l2"], expected) < 1e-8
    assert relative(gradient["l2"], closed_form(FEATURES)[1]) > 0.05


@pytest.mark.parametrize(
    "operator", [Hessian(), pytest.param(FixedPoint(), marks=slow)], ids=str
)
def test_the_batches_of_one_epoch_are_all_of_the_data(operator, key):
    """At any w_T: H and g of the mean of 4 batches of 5 are those of the 20 rows."""
    table = hg.IndexTable(jnp.arange(20).reshape(4, 5))
    problem = ridge(40, batches=table, optimizer=lambda hp: optax.sgd(0.1))
    estimator = Implicit(operator, solver=Dense(), num_batches=4, tolerance=np.inf)
    got, _ = hg.estimate(problem, estimator, HPARAMS, (), key)
    w, data = np.asarray(got.info.state.weights), Ridge.make()
    h, _ = data.quadratic(FEATURES)
    expected = -np.linalg.solve(h, data.outer(w)[1]) * w
    assert relative(got.hypergrad["l2"], expected) < 1e-9


def test_a_warm_start_saves_iterations(key):
    problem, estimator = ridge(300), Implicit()
    state = estimator.init(problem, HPARAMS, key)
    np.testing.assert_array_equal(state.adjoint, np.zeros(4))
    cold, warm = hg.estimate(problem, estimator, HPARAMS, state, key)
    plain, nothing = hg.estimate(problem, estimator, HPARAMS, (), key)
    assert nothing == ()
    assert isinstance(warm, ImplicitState)
    assert relative(cold.hypergrad["l2"], plain.hypergrad["l2"]) < 1e-12
    again, last = hg.estimate(problem, estimator, HPARAMS, warm, key)
    assert int(again.info.iterations) == 0 < int(cold.info.iterations)
    assert relative(again.hypergrad["l2"], plain.hypergrad["l2"]) < 1e-9
    assert relative(last.adjoint, warm.adjoint) < 1e-9


def quadratic(spectrum, seed=0):
    """½ wᵀA w − λᵀw, solved by one Newton step; F = ½‖w − 1‖², dF/dλ = A⁻¹(w − 1)."""
    rng = np.random.default_rng(seed)
    n = len(spectrum)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    a = q * spectrum @ q.T
    inverse = q / spectrum @ q.T
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(n),
        step=lambda hp, s, tick: s - tick.data[1] @ (tick.data[0] @ s - hp),
        outer_at=lambda hp, s, tick: 0.5 * jnp.sum((s - 1) ** 2),
        inner_loss_at=lambda hp, s, tick: 0.5 * s @ (tick.data[0] @ s) - hp @ s,
        data=(a, inverse),
        num_steps=4,
    )
    hparams = a @ (1 + rng.normal(size=n))
    return problem, hparams, inverse @ (inverse @ hparams - 1)


@pytest.mark.parametrize(
    ("spectrum", "solver", "tolerance"),
    [
        pytest.param(np.linspace(1, 5, 6), CG(), 1e-10, marks=slow),
        (np.full(6, 3.0), CG(max_iterations=1), 1e-12),
        (np.logspace(-6, 0, 6), CG(tolerance=1e-15), 1e-6),
    ],
    ids=["known", "identity", "ill-conditioned"],
)
def test_quadratics_of_known_spectrum(spectrum, solver, tolerance, key):
    problem, hparams, expected = quadratic(spectrum)
    fn = hg.hypergrad(problem, Implicit(solver=solver))
    assert relative(fn(hparams, key), expected) < tolerance


def test_an_ill_conditioned_solve_that_stops_early_warns(key):
    problem, hparams, expected = quadratic(np.logspace(-6, 0, 6))
    fn = hg.hypergrad(problem, Implicit(solver=CG(max_iterations=3)))
    with pytest.warns(hg.HypergradWarning, match="after 3 iterations"):
        assert relative(fn(hparams, key), expected) > 1e-3


@pytest.mark.parametrize(
    "operator",
    [Hessian(), *(pytest.param(o, marks=slow) for o in (GaussNewton(), FixedPoint()))],
    ids=str,
)
def test_weights_of_no_dimension(operator, key):
    """W* = a / (1 + λ), F = ½ w²: dF/dλ = −a² / (1 + λ)³."""
    problem = hg.Problem(
        init=lambda k, hp: jnp.zeros(()),
        inner_loss=lambda w, hp, a: (
            0.5 * (outputs(w) - a[0]) ** 2 + hg.l2(w, hp["l2"]) ** hp["power"]
        ),
        outer_loss=lambda w, hp, _: 0.5 * w**2,
        optimizer=lambda hp: optax.sgd(0.4),
        train=jnp.full(1, 3.0),
        valid=(),
        num_steps=80,
    )
    hparams = {"l2": 0.5, "power": 1}
    gradient = hg.hypergrad(problem, Implicit(operator))(hparams, key)
    np.testing.assert_allclose(gradient["l2"], -9 / 1.5**3, rtol=1e-9)
    assert gradient["power"].dtype == jax.dtypes.float0


def logistic(num_steps=400):
    rng = np.random.default_rng(3)
    x, xv = rng.normal(size=(2, 30, 3))
    truth = np.array([1.0, -2.0, 0.5])
    y, yv = np.sign(x @ truth + rng.normal(size=30)), np.sign(xv @ truth)

    def loss(w, batch):
        x, y = batch
        return jnp.mean(jax.nn.softplus(-y * outputs(x @ w)))

    return hg.Problem(
        init=lambda key, hp: jnp.zeros(3),
        inner_loss=lambda w, hp, batch: loss(w, batch) + hg.l2(w, jnp.exp(hp)),
        outer_loss=lambda w, hp, batch: loss(w, batch),
        optimizer=lambda hp: optax.sgd(2.0),
        train=(x, y),
        valid=(xv, yv),
        num_steps=num_steps,
    )


@slow
@pytest.mark.parametrize("operator", [Hessian(), GaussNewton(), FixedPoint()], ids=str)
def test_logistic_regression_against_unrolling_and_differences(operator, key):
    problem, hparams = logistic(), jnp.array([-3.0, -2.0, -1.0])
    got = hg.hypergrad(problem, Implicit(operator))(hparams, key)
    unrolled = hg.hypergrad(problem, hg.Reverse())(hparams, key)
    difference = hg.hypergrad(problem, hg.FiniteDifference(order=4))(hparams, key)
    assert relative(got, unrolled) < 1e-8
    assert relative(got, difference) < 1e-6


@slow
@pytest.mark.parametrize("name", ["hessian cg", "fixed point gmres"])
def test_transformations_agree_with_the_plain_call(name, key):
    problem, estimator = ridge(60, batch_size=5), CONVERGED[name]
    fn = jax.jit(hg.value_and_hypergrad(problem, estimator))
    hparams = jax.tree.map(jnp.asarray, HPARAMS)
    _, expected = fn(hparams, key)
    objective = hg.objective(problem, estimator)
    gradient = jax.jit(jax.grad(objective))
    assert relative(gradient(hparams, key), expected) < 1e-12

    scales = jnp.array([0.5, 1.0, 2.0])
    many = jax.tree.map(lambda x: jnp.multiply.outer(scales, x), hparams)
    over_hparams = jax.vmap(fn, (0, None))(many, key)[1]
    keys = jax.random.split(key, 3)
    over_keys = jax.vmap(fn, (None, 0))(hparams, keys)[1]
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], many)
        got = jax.tree.map(lambda x, i=i: x[i], over_hparams)
        assert relative(got, fn(one, key)[1]) < 1e-7
        got = jax.tree.map(lambda x, i=i: x[i], over_keys)
        assert relative(got, fn(hparams, keys[i])[1]) < 1e-7


def test_refusals(key):
    for estimator in (Implicit(), Implicit(GaussNewton())):
        with pytest.raises(ValueError, match="no inner loss .* inner_loss_at, or"):
            hg.hypergrad(cubic(), estimator)
    with pytest.raises(ValueError, match="every 2 steps"):
        hg.hypergrad(ridge(4, outer_every=2), Implicit())
    assert Implicit().applies(ridge(4, outer_every=4)) is None
    for solver in (CG(), Nystrom()):
        with pytest.raises(ValueError, match="serves symmetric operators"):
            Implicit(FixedPoint(), solver=solver)
    for bad, message in [
        ({"solver": CG}, "solver must be a value, got <class"),
        ({"operator": Hessian}, "operator must be a value, got <class"),
        ({"damping": -1.0}, "damping must be >= 0, got -1"),
        ({"num_batches": 0}, "num_batches must be >= 1 or None, got 0"),
        ({"tolerance": -1.0}, "tolerance must be >= 0 or None"),
    ]:
        with pytest.raises(ValueError, match=message):
            Implicit(**bad)
    with pytest.raises(TypeError, match="second derivatives"):
        jax.hessian(
            lambda l2: hg.objective(ridge(3), Implicit())({"lr": 0.5, "l2": l2}, key)
        )(0.1)


@pytest.mark.parametrize("operator", [Hessian(), FixedPoint()], ids=str)
def test_sixteen_bits_are_refused_rather_than_wrong(operator, key):
    problem = ridge(3, init=lambda key, hp: jnp.zeros(4, jnp.bfloat16))
    with pytest.raises(ValueError, match="is bfloat16.*float32"):
        hg.hypergrad(problem, Implicit(operator))({"lr": 0.5, "l2": 0.1}, key)
    hparams = {"lr": 0.5, "l2": jnp.ones((), jnp.bfloat16)}
    with pytest.raises(ValueError, match="pass it in float32"):
        hg.hypergrad(ridge(3), Implicit(operator))(hparams, key)


def test_identity_inverse_is_its_closed_form(key):
    """Dλ_j = −α ∇outer_j w_j, and it knows how far from a solution that is."""
    problem = ridge(300)
    estimator = Implicit(solver=IdentityInverse(0.5))
    with pytest.warns(hg.HypergradWarning, match="after 0 iterations"):
        gradient = hg.hypergrad(problem, estimator)(HPARAMS, key)
    data = Ridge.make()
    h, b = data.quadratic(FEATURES)
    w = np.linalg.solve(h, b)
    np.testing.assert_allclose(gradient["l2"], -0.5 * data.outer(w)[1] * w, rtol=1e-9)


@slow
@pytest.mark.parametrize(
    "estimator",
    [
        Implicit(),
        Implicit(GaussNewton(), solver=Nystrom(rank=3), num_batches=2, damping=0.1),
        Implicit(FixedPoint()),
        Implicit(FixedPoint(), solver=NormalCG()),
        Implicit(FixedPoint(), solver=Neumann()),
    ],
    ids=lambda e: f"{type(e.operator).__name__} {type(e.solver).__name__}",
)
def test_lowers_for_every_platform(estimator, key):
    with jax.enable_x64(False):
        problem = ridge(4, inner_loss=marked, batch_size=5)
        problem = hg.Problem.replace(
            problem, data=tree.cast_floats(problem.data, jnp.float32)
        )
        hparams = {"lr": jnp.float32(0.1), "l2": jnp.ones(4, jnp.float32)}
        state = estimator.init(problem, hparams, key)
        lowers(
            lambda p, h, s, k: estimator.estimate(p, h, s, k),
            *(problem, hparams, state, key),
            allowed=STABLE,
        )
        result, _ = estimator.estimate(problem, hparams, state, key)
        leaves = jax.tree.leaves(result.hypergrad)
        assert all(leaf.dtype == jnp.float32 for leaf in leaves)


@slow
def test_float32_reaches_the_closed_form(key):
    with jax.enable_x64(False):
        problem = ridge(300)
        hparams = {"lr": 0.5, "l2": FEATURES}
        got = hg.hypergrad(problem, Implicit())(hparams, key)["l2"]
    assert relative(got, closed_form(FEATURES)[1]) < 1e-5
