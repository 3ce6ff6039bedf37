"""Linear solvers against numpy, and where the solvers of others fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrad.linear_solvers import (
    CG,
    GMRES,
    SOLVERS,
    Dense,
    IdentityInverse,
    Neumann,
    NormalCG,
    Nystrom,
    spectral_radius,
)
from tests.test_export import STABLE, lowers

SYMMETRIC = {
    "cg": CG(),
    "normal": NormalCG(),
    "gmres": GMRES(),
    "restarted": GMRES(restart=3, max_iterations=400),
    "neumann": Neumann(max_iterations=2000),
    "dense": Dense(),
}
GENERAL = {name: SYMMETRIC[name] for name in SYMMETRIC if name != "cg"}


slow = pytest.mark.slow


def some(cases, *default):
    """The cases to run by default, the others being slow."""
    return [c if c in default else pytest.param(c, marks=slow) for c in cases]


def spectrum(eigenvalues, seed=0, dtype=np.float64):
    """A symmetric matrix with these eigenvalues, and a right-hand side."""
    rng = np.random.default_rng(seed)
    n = len(eigenvalues)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return (q * eigenvalues @ q.T).astype(dtype), rng.normal(size=n).astype(dtype)


@functools.partial(jax.jit, static_argnames=("solver", "symmetric"))
def solve(solver, a, b, **more):
    return solver.solve(lambda v: a @ v, b, **more)


@pytest.mark.parametrize("name", some(SYMMETRIC, "cg", "neumann"))
def test_symmetric_systems(name, key):
    a, b = spectrum(np.linspace(1, 20, 8))
    got = solve(SYMMETRIC[name], a, b, key=key)
    np.testing.assert_allclose(got.x, np.linalg.solve(a, b), rtol=1e-9)
    residual = np.linalg.norm(b - a @ got.x) / np.linalg.norm(b)
    assert got.residual < 1e-10
    np.testing.assert_allclose(got.residual, residual, atol=1e-15)


@pytest.mark.parametrize("name", some(GENERAL, "gmres", "normal"))
def test_systems_that_are_not_symmetric(name, key):
    """I − J with a contraction J whose eigenvalues are complex."""
    rng = np.random.default_rng(1)
    j = rng.normal(size=(8, 8))
    j *= 0.8 / np.abs(np.linalg.eigvals(j)).max()
    a, b = np.eye(8) - j, rng.normal(size=8)
    got = solve(GENERAL[name], a, b, key=key, symmetric=False)
    assert got.residual < 1e-9
    np.testing.assert_allclose(got.x, np.linalg.solve(a, b), rtol=1e-7)


def test_cg_on_a_multiple_of_the_identity():
    """One step is exact, and the steps after it do no harm."""
    for scale in (1e-6, 1.0, 3.0, 1e6):
        b = np.arange(1.0, 9.0, dtype=np.float32)
        for iterations in (1, 32):
            solver = CG(max_iterations=iterations, tolerance=0.0)
            got = solve(solver, scale * np.eye(8, dtype=np.float32), b)
            np.testing.assert_allclose(got.x, b / scale, rtol=1e-6)


@pytest.mark.parametrize("dtype", some([np.float32, np.float64], np.float64))
def test_cg_never_rises_in_the_norm_it_minimises(dtype):
    """1, 2, 4, ..., 32 iterations on 8 unknowns: down to rounding, and stays there."""
    a, b = spectrum(np.logspace(0, 2, 8), dtype=dtype)
    exact = np.linalg.solve(a.astype(np.float64), b.astype(np.float64))
    errors = []
    for iterations in (1, 2, 4, 8, 16, 32):
        got = solve(CG(max_iterations=iterations, tolerance=0.0), a, b)
        error = np.asarray(got.x, np.float64) - exact
        errors.append(np.sqrt(error @ a @ error / (exact @ a @ exact)))
    floor = 20 * np.finfo(dtype).eps
    for before, after in zip(errors, errors[1:], strict=False):
        assert after <= max(before, floor)
    assert max(errors[-2:]) <= floor
    assert errors[0] > 0.1, "one step is far from enough: the test can fail"


def test_cg_stops_at_rounding_when_it_is_given_no_tolerance():
    """Down to the underflow of its residual it would be 92 iterations, for nothing."""
    a, b = spectrum(np.logspace(0, 2, 8))
    got = solve(CG(max_iterations=10_000, tolerance=0.0), a, b)
    assert int(got.iterations) < 25
    assert float(got.curvature) > 0.5
    assert float(got.residual) < 1e-13


@slow
def test_cg_agrees_with_the_krylov_optimum_at_each_iteration():
    """Independent: minimise over span{b, ..., A^(k−1) b} with a dense projection."""
    a, b = spectrum(np.linspace(1, 30, 8))
    basis = []
    for k in range(1, 5):
        new = b if k == 1 else a @ basis[-1]
        basis.append(new / np.linalg.norm(new))
        q, _ = np.linalg.qr(np.stack(basis, 1))
        best = q @ np.linalg.solve(q.T @ a @ q, q.T @ b)
        got = solve(CG(max_iterations=k, tolerance=0.0), a, b)
        np.testing.assert_allclose(got.x, best, rtol=1e-8, atol=1e-10)
        smallest = np.linalg.lstsq(a @ q, b)[0]
        got = solve(GMRES(max_iterations=k, tolerance=0.0), a, b)
        np.testing.assert_allclose(got.x, q @ smallest, rtol=1e-8, atol=1e-10)
        assert int(got.iterations) == k


def test_cg_on_many_unknowns_and_on_small_operators_in_float32():
    """An absolute singularity test, scaled by n, gives NaN for both."""
    n = 200_000
    diagonal = jnp.linspace(0.1, 1.0, n, dtype=jnp.float32)
    for scale in (1.0, 1e-6, 1e-12):
        b = jnp.ones(n, jnp.float32)
        got = CG().solve(lambda v: scale * diagonal * v, b)  # noqa: B023
        assert float(got.residual) < 2e-5


def test_cg_reports_negative_curvature():
    a, b = spectrum(np.array([1.0, 2.0, -0.5, 3.0]))
    got = solve(CG(), a, b)
    assert float(got.curvature) < 0
    assert np.isfinite(got.x).all()
    assert float(got.residual) > 1e-3
    a, b = spectrum(np.array([1.0, 2.0, 0.5, 3.0]))
    assert 0.5 - 1e-9 <= float(solve(CG(), a, b).curvature) <= 3.0


def test_neumann_beyond_spectral_radius_one(key):
    """Α = 1 makes I − αA expand by 19 a term; the scale that is found converges."""
    a, b = spectrum(np.linspace(1, 20, 8))
    naive = solve(Neumann(scale=1.0, max_iterations=20), a, b)
    assert float(naive.residual) > 1e10
    assert not float(
        solve(Neumann(scale=1.0, max_iterations=10_000), a, b).residual < 1
    )
    found = solve(Neumann(max_iterations=2000), a, b, key=key)
    assert float(found.residual) < 1e-10
    radius = spectral_radius(lambda v: a @ v, jnp.asarray(b), 100)
    np.testing.assert_allclose(radius, 20.0, rtol=1e-6)


def test_neumann_is_the_truncated_series():
    a, b = spectrum(np.linspace(0.1, 1.5, 8))
    for terms in (1, 2, 5):
        got = solve(Neumann(max_iterations=terms, scale=0.7, tolerance=0.0), a, b)
        power, total = b, 0
        for _ in range(terms):
            total, power = total + 0.7 * power, power - 0.7 * a @ power
        np.testing.assert_allclose(got.x, total, rtol=1e-12)
        expected = np.linalg.norm(power) / np.linalg.norm(b)
        np.testing.assert_allclose(got.residual, expected, rtol=1e-10)


@pytest.mark.parametrize("name", some([*SYMMETRIC, "nystrom", "identity"], "cg"))
def test_a_tiny_right_hand_side_in_float32(name, key):
    solvers = SYMMETRIC | {
        "nystrom": Nystrom(rank=8, rho=0.1),
        "identity": IdentityInverse(0.5),
    }
    a, b = spectrum(np.linspace(1, 4, 8), dtype=np.float32)
    large = solve(solvers[name], a, b, key=key)
    tiny = solve(solvers[name], a, 1e-20 * b, key=key)
    np.testing.assert_allclose(tiny.x * 1e20, large.x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tiny.residual, large.residual, atol=1e-5)
    zero = solve(solvers[name], a, 0 * b, key=key)
    assert np.all(np.asarray(zero.x) == 0)
    assert float(zero.residual) == 0


@pytest.mark.parametrize("name", some([*SYMMETRIC, "nystrom"], "cg", "gmres"))
def test_a_single_unknown_of_no_dimension(name, key):
    solver = (SYMMETRIC | {"nystrom": Nystrom(rho=1e-9)})[name]
    fn = jax.jit(lambda b: solver.solve(lambda v: 4.0 * v, b, key=key))
    got = fn(jnp.asarray(2.0))
    assert got.x.shape == ()
    np.testing.assert_allclose(got.x, 0.5, rtol=1e-6)


def test_trees(key):
    b = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    matvec = lambda v: {"a": 2.0 * v["a"], "b": 4.0 * v["b"]}
    got = jax.jit(lambda b: GMRES().solve(matvec, b, x0=b))(b)
    np.testing.assert_allclose(got.x["a"], [0.5, 1.0], rtol=1e-12)
    np.testing.assert_allclose(got.x["b"], 0.75, rtol=1e-12)


def test_ill_conditioned():
    """Κ = 1e6 in float64: CG and GMRES reach it."""
    a, b = spectrum(np.logspace(-6, 0, 8))
    exact = np.linalg.solve(a, b)
    for solver in (CG(tolerance=1e-14), GMRES(tolerance=1e-14)):
        got = solve(solver, a, b)
        error = np.linalg.norm(got.x - exact) / np.linalg.norm(exact)
        assert error < 1e-7, solver


@slow
def test_gmres_where_a_cycle_is_too_short_says_so():
    """A cyclic shift: no step before the n-th gains anything."""
    a, b = np.roll(np.eye(6), 1, axis=0), np.eye(6)[0]
    whole = solve(GMRES(), a, b, symmetric=False)
    np.testing.assert_allclose(whole.x, np.linalg.solve(a, b), atol=1e-14)
    short = solve(GMRES(restart=3), a, b, symmetric=False)
    np.testing.assert_allclose(short.residual, 1.0)


@slow
def test_singular_systems_are_data(key):
    a, b = np.diag(np.arange(8.0)), np.ones(8)
    for solver in (*SYMMETRIC.values(), Nystrom()):
        assert not float(solve(solver, a, b, key=key).residual) < 0.1
        assert not float(solve(solver, np.nan * a, b, key=key).residual) < 0.1
    for solver in (CG(), GMRES()):
        got = solve(solver, a, np.arange(8.0), key=key)
        np.testing.assert_allclose(got.x, [0, *np.ones(7)], atol=1e-9)


@slow
def test_a_guess_saves_iterations_and_a_bad_one_does_no_harm(key):
    a, b = spectrum(np.logspace(0, 3, 8))
    exact = np.linalg.solve(a, b)
    near = exact + 1e-9 * np.ones(8)
    for solver in (
        CG(tolerance=1e-7),
        GMRES(tolerance=1e-7),
        Neumann(max_iterations=50_000, tolerance=1e-7),
    ):
        cold = solve(solver, a, b, key=key)
        warm = solve(solver, a, b, x0=jnp.asarray(near), key=key)
        assert int(warm.iterations) < int(cold.iterations)
        assert float(warm.residual) < 1e-7
        done = solve(solver, a, b, x0=jnp.asarray(exact), key=key)
        assert int(done.iterations) == 0
    for bad in (1e9 * np.ones(8), np.full(8, np.nan), np.full(8, np.inf)):
        got = solve(CG(tolerance=1e-7), a, b, x0=jnp.asarray(bad), key=key)
        np.testing.assert_allclose(got.x, exact, rtol=1e-4)


def test_nystrom_is_the_inverse_of_its_low_rank_model(key):
    """Against C W⁺ Cᵀ + ρ I written out; a matrix of rank 3 is met exactly."""
    a, b = spectrum(np.array([5.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    for rank in (2, 5):
        chosen = np.asarray(jax.random.permutation(key, 8)[:rank])
        c = a[:, chosen]
        model = c @ np.linalg.pinv(c[chosen], rcond=1e-10) @ c.T
        expected = np.linalg.solve(model + 0.1 * np.eye(8), b)
        got = solve(Nystrom(rank=rank, rho=0.1), a, b, key=key)
        np.testing.assert_allclose(got.x, expected, rtol=1e-6)
        if rank >= 3:
            exact = np.linalg.solve(a + 0.1 * np.eye(8), b)
            np.testing.assert_allclose(got.x, exact, rtol=1e-6)


@slow
def test_nystrom_with_a_small_rho_in_float32(key):
    a, b = spectrum(np.logspace(-8, 2, 8), dtype=np.float32)
    got = solve(Nystrom(rank=8, rho=1e-8), a, b, key=key)
    assert np.isfinite(got.x).all()


@slow
@pytest.mark.parametrize("solver", [CG(), GMRES(), Nystrom(rank=8, rho=1e-6)], ids=str)
def test_vmap_over_right_hand_sides_and_operators(solver, key):
    a = np.stack([spectrum(np.linspace(1, top, 8))[0] for top in (2.0, 9.0)])
    b = np.stack([np.ones(8), np.zeros(8)])
    over_b = jax.vmap(lambda a, b: solve(solver, a, b, key=key).x, (None, 0))
    got = jax.jit(jax.vmap(over_b, (0, None)))(a, b)
    for i in range(2):
        np.testing.assert_allclose(got[i, 0], np.linalg.solve(a[i], b[0]), rtol=1e-5)
        assert np.all(np.asarray(got[i, 1]) == 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_are_refused(dtype, key):
    b = {"w": jnp.ones(3, dtype)}
    for cls in SOLVERS.values():
        with pytest.raises(ValueError, match=r"b\['w'\] is .*float16.*float32"):
            cls().solve(lambda v: v, b, key=key)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CG(max_iterations=0), "CG.max_iterations must be >= 1, got 0"),
        (lambda: GMRES(restart=0), "GMRES.restart must be >= 1"),
        (lambda: NormalCG(tolerance=-1.0), "NormalCG.tolerance must be >= 0"),
        (lambda: Neumann(scale=0.0), "Neumann.scale must be > 0"),
        (lambda: Neumann(power_iterations=0), "power_iterations must be >= 1"),
        (lambda: Nystrom(rank=0), "Nystrom.rank must be >= 1"),
        (lambda: Nystrom(rho=0.0), "Nystrom.rho must be > 0"),
        (lambda: IdentityInverse(-1.0), "IdentityInverse.scale must be >= 0"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_a_solve_needs_is_said(key):
    for solver in (CG(), Nystrom()):
        with pytest.raises(ValueError, match="not known to be symmetric: use GMRES"):
            solver.solve(lambda v: v, jnp.ones(2), key=key, symmetric=False)
    for solver in (Neumann(), Nystrom()):
        with pytest.raises(ValueError, match=r"pass solve\(\.\.\., key=\)"):
            solver.solve(lambda v: v, jnp.ones(2))


@pytest.mark.parametrize("name", some(SOLVERS, "GMRES"))
def test_lowers_for_every_platform(name, key):
    with jax.enable_x64(False):
        solver = SOLVERS[name]()
        a = jnp.eye(4, dtype=jnp.float32)

        def fn(a, b, x0, key):
            return solver.solve(lambda v: a @ v, b, x0=x0, key=key)

        lowers(fn, a, jnp.ones(4), jnp.ones(4), key, allowed=STABLE)
