"""Space: λ <-> z <-> u, its constraints, its ties and its error messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrad.hyperparameters import Linear, Log, Logit, Simplex, Softplus
from hypergrad.projections import CappedSimplex, ProbabilitySimplex
from hypergrad.space import Space


def make_space() -> Space:
    return Space(
        {
            "lr": Log(1e-3, 1.0, default=0.1, shape=(3,)),
            "momentum": Logit(0.1, 0.999, default=0.9),
            "width": Softplus(1e-2, 50.0),
            "data": Linear(0.0, 1.0, shape=(2, 3), constraint=CappedSimplex(4.0)),
            "mix": Simplex(shape=3),
        }
    )


def test_names_and_defaults():
    space = make_space()
    assert space.dim == len(space.names) == 14
    assert space.names[2:7] == ("lr[2]", "momentum", "width", "data[0,0]", "data[0,1]")
    hparams = space.defaults()
    np.testing.assert_allclose(hparams["lr"], 0.1, rtol=1e-12)
    np.testing.assert_allclose(hparams["momentum"], 0.9, rtol=1e-12)
    np.testing.assert_allclose(hparams["data"], np.full((2, 3), 0.5))
    np.testing.assert_allclose(hparams["mix"], 1 / 3, rtol=1e-12)
    space.check(hparams)


@pytest.mark.parametrize(
    ("entry", "coord"),
    [
        (Log(1e-4, 2.0), np.log),
        (Logit(1e-3, 0.999), lambda x: np.log(x / (1 - x))),
        (Softplus(1e-3, 40.0), lambda x: np.log(np.exp(x) - 1)),
        (Linear(-2.0, 3.0), lambda x: x),
    ],
    ids=lambda case: type(case).__name__,
)
def test_coordinate_and_its_inverse(entry, coord):
    values = np.linspace(entry.low, entry.high, 11)
    np.testing.assert_allclose(entry.to_coord(values), coord(values), rtol=1e-9)
    np.testing.assert_allclose(
        entry.from_coord(entry.to_coord(values)), values, rtol=1e-12
    )


def test_softplus_of_large_values_stays_finite():
    wide = Softplus(1e-30, 1e6)
    value = jnp.array([1e-30, 1e6])
    np.testing.assert_allclose(wide.from_coord(wide.to_coord(value)), value, rtol=1e-9)


def test_cube_ends_are_the_bounds():
    space = make_space()
    low, high = space.from_cube(jnp.zeros(14)), space.from_cube(jnp.ones(14))
    np.testing.assert_array_equal(jnp.stack([low, high]), jnp.stack(space.bounds()))
    np.testing.assert_allclose(space.from_coords(low)["lr"], 1e-3)
    np.testing.assert_allclose(space.from_coords(high)["momentum"], 0.999)
    u = jax.random.uniform(jax.random.key(0), (14,))
    np.testing.assert_allclose(space.to_cube(space.from_cube(u)), u, atol=1e-12)


def test_sample_is_feasible_under_jit_and_vmap():
    space = make_space()
    keys = jax.random.split(jax.random.key(0), 50)
    coords = jax.jit(jax.vmap(space.sample))(keys)
    np.testing.assert_allclose(jax.vmap(space.project)(coords), coords, atol=1e-12)
    for z in coords[:5]:
        space.check(space.from_coords(z))
    # Before projection each is uniform: the projected coordinates of lr still are.
    cube = jax.vmap(space.to_cube)(coords)[:, :5]
    assert abs(float(cube.mean()) - 0.5) < 0.05


def test_project_uses_bounds_and_constraints():
    space = make_space()
    hparams = space.from_coords(space.project(jnp.full(14, 30.0)))
    np.testing.assert_allclose(hparams["lr"], 1.0)
    np.testing.assert_allclose(hparams["momentum"], 0.999)
    np.testing.assert_allclose(hparams["data"], 4 / 6)
    np.testing.assert_allclose(hparams["mix"], 1 / 3)


def test_from_coords_is_differentiable():
    space = make_space()
    z = space.to_coords(space.defaults())
    grads = jax.grad(lambda z: space.from_coords(z)["lr"].sum())(z)
    np.testing.assert_allclose(grads[:3], 0.1)  # dλ/dz = λ for the logarithm
    np.testing.assert_array_equal(grads[3:], 0.0)


def test_space_is_static_under_jit():
    @jax.jit
    def first(z):
        return z[0]

    traces = jax.jit(lambda space, z: space.project(z), static_argnums=0)
    z = jnp.zeros(14)
    traces(make_space(), z)
    traces(make_space(), z)
    assert traces._cache_size() == 1
    assert hash(make_space()) == hash(make_space())
    assert make_space() == make_space()
    assert make_space() != Space({"lr": Log(1e-3, 1.0)})


def test_lists_and_integers_as_a_config_gives_them():
    entry = Log(**{"low": 1e-3, "high": 1.0, "shape": [2], "default": [0.1, 0.2]})
    assert entry == Log(1e-3, 1.0, shape=2, default=(0.1, 0.2))
    assert hash(entry) == hash(Log(1e-3, 1.0, shape=2, default=np.array([0.1, 0.2])))


def test_default_float_type_without_x64():
    with jax.enable_x64(False):
        space = make_space()
        z = space.to_coords(space.defaults())
        assert z.dtype == jnp.float32
        assert space.from_cube(space.to_cube(z)).dtype == jnp.float32
        assert all(v.dtype == jnp.float32 for v in space.from_coords(z).values())
        top = space.from_cube(jnp.ones(14).at[5:].set(1 / 3))
        space.check(space.from_coords(top))  # bounds survive rounding


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Log(0.0, 1.0), "Log needs low > 0"),
        (lambda: Logit(0.0, 1.0), "0 < low and high < 1"),
        (lambda: Softplus(0.0, 1.0), "Softplus needs low > 0"),
        (lambda: Linear(1.0, 1.0), "low must be below high"),
        (lambda: Linear(0.0, np.inf), "must be finite"),
        (lambda: Linear(0.0, 1.0, shape=(0,)), "positive integers"),
        (lambda: Log(1e-3, 1.0, default=2.0), r"default must lie in \[0.001, 1.0\]"),
        (lambda: Log(1e-3, 1.0, default=np.nan), "default must lie in"),
        (lambda: Log(1e-3, 1.0, shape=3, default=(0.1, 0.2)), "broadcast to shape"),
        (lambda: Simplex(shape=2, default=(0.9, 0.9)), "must satisfy the constraint"),
        (lambda: Simplex(0.4, shape=3), "cannot sum to 1"),
        (
            lambda: Linear(0.5, 1.0, shape=4, constraint=CappedSimplex(1.0)),
            "cannot sum to at most 1.0",
        ),
        (
            lambda: Linear(2.0, 3.0, constraint=ProbabilitySimplex()),
            "cannot sum to 1",
        ),
        (lambda: Space({}), "at least one"),
        (lambda: Space({"lr": 0.1}), r"entries\['lr'\] must be a Hyperparameter"),
    ],
)
def test_wrong_declarations_say_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentun": 0.5}, "did you mean 'momentum'"),
        ({"lr": jnp.ones(4)}, r"must have shape \(3,\); got \(4,\)"),
        ({"lr": jnp.array([0.1, 2.0, 0.1])}, r"must lie in \[0.001, 1.0\]"),
        ({"momentum": -0.5}, "must lie in"),
        ({"width": jnp.nan}, "must lie in"),
        ({"data": jnp.ones((2, 3))}, "must satisfy"),
        ({"mix": jnp.full(3, 0.5)}, "must satisfy"),
    ],
)
def test_check_names_the_fault(change, message):
    space = make_space()
    with pytest.raises(ValueError, match=message):
        space.check(space.defaults() | change)


def test_check_missing_name_and_traced_values():
    space = make_space()
    hparams = space.defaults()
    hparams.pop("lr")
    with pytest.raises(ValueError, match="lacks 'lr'"):
        space.check(hparams)
    # Under a trace values are unknown, shapes are not.
    jax.jit(space.check)(space.defaults() | {"momentum": jnp.array(7.0)})
    with pytest.raises(ValueError, match="must have shape"):
        jax.jit(space.check)(space.defaults() | {"momentum": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"coords must have shape \(14,\)"):
        space.from_coords(jnp.zeros(3))


def test_ties_move_whole_axes_and_leave_the_rest():
    space = make_space()
    ties = space.tie({"rate": ("lr", "width"), "momentum": ("momentum",)})
    assert (ties.names, ties.dim) == (("rate", "momentum"), 2)
    z = jax.jit(ties.expand)(jnp.array([0.25, 1.0]))
    cube = space.to_cube(z)
    np.testing.assert_allclose(cube[jnp.array([0, 1, 2, 4])], 0.25, rtol=1e-9)
    np.testing.assert_allclose(cube[3], 1.0)
    start = space.to_coords(space.defaults())
    np.testing.assert_allclose(z[5:], start[5:], atol=1e-12)
    again = space.tie({"rate": ["lr", "width"], "momentum": ["momentum"]})
    assert hash(ties) == hash(again)


def test_ties_project_and_may_name_single_coordinates():
    space = make_space()
    z = space.tie({"data": ("data",), "first": ("lr[0]",)}).expand(jnp.ones(2))
    np.testing.assert_allclose(space.from_coords(z)["data"], 4 / 6)
    np.testing.assert_allclose(space.from_coords(z)["lr"], [1.0, 0.1, 0.1])


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"rate": ("lrr",)}, "did you mean 'lr'"),
        ({"rate": ()}, "ties no hyperparameter"),
        ({"a": ("lr",), "b": ("lr[1]",)}, r"both tie 'lr\[1\]'"),
    ],
)
def test_wrong_ties_say_so(axes, message):
    with pytest.raises(ValueError, match=message):
        make_space().tie(axes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Log(1e-50, 1.0),
        lambda: Logit(0.1, 0.9999999999),
        lambda: Linear(1.0, 1.0 + 1e-9),
    ],
)
def test_bounds_that_float32_cannot_tell_apart_are_refused(make):
    with jax.enable_x64(False), pytest.raises(ValueError, match="must differ"):
        make()
