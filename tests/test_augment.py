"""Augmentations against scipy's interpolation, and differentiated along a path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import affine_transform

from hypergrad import augment
from hypergrad.augment import (
    add_noise,
    brighten,
    mixup,
    rescale,
    rotate,
    shift,
)

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(size=(3, 7, 6, 2)))
TARGETS = jax.nn.one_hot(jnp.array([0, 2, 1]), 4)


def mix(key, images, strength):
    """`mixup` of both, as one array."""
    x, targets = mixup(key, images, TARGETS, strength)
    return jnp.concatenate([x.ravel(), targets.ravel()])


def compiled(fn):
    """Each program runs a few times only: the compiler's work would not pay."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def all_of(images):
    """All changes at one strength as one program, each raveled."""
    return lambda key, s: [change(key, images, s).ravel() for change in CHANGES]


MOVES = [shift, rescale, rotate]
CHANGES = [*MOVES, brighten, add_noise, mix]


def affine(image, matrix, offset):
    """Scipy's bilinear interpolation: out[p] = in[matrix p + offset], zeros outside."""
    channels = [
        affine_transform(c, matrix, offset, order=1, mode="grid-constant")
        for c in np.moveaxis(np.asarray(image), -1, 0)
    ]
    return np.stack(channels, axis=-1)


def about_the_centre(image, matrix):
    middle = (np.array(image.shape[:2]) - 1) / 2
    return affine(image, matrix, middle - matrix @ middle)


def turn(angle):
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def test_moves_are_those_of_scipy(key):
    u = np.asarray(jax.random.uniform(key, (3, 2), jnp.float64, -1.0, 1.0))
    v = np.asarray(jax.random.uniform(key, (3, 1), jnp.float64, -1.0, 1.0))[:, 0]
    rows = list(zip(IMAGES, u, v, strict=True))
    expected = {
        shift: [affine(x, np.eye(2), -0.4 * u * [7, 6]) for x, u, _ in rows],
        rescale: [
            about_the_centre(x, np.exp(-0.4 * v) * np.eye(2)) for x, _, v in rows
        ],
        rotate: [about_the_centre(x, turn(0.4 * v)) for x, _, v in rows],
    }
    moved = compiled(lambda: [move(key, IMAGES, 0.4) for move in expected])()
    for got, images in zip(moved, expected.values(), strict=True):
        np.testing.assert_allclose(got, np.stack(images), atol=1e-12)


def test_the_two_interpolations_are_one():
    rows, cols = RNG.uniform(-3, 10, size=(3, 5)), RNG.uniform(-3, 9, size=(3, 4))
    rows[:, :2], cols[:, :2] = [[2.0, -1.0]], [[0.0, 6.0]]  # cells of either side
    rows_below, cols_below = np.floor(rows), np.ceil(cols) - 1
    spread = lambda r, c: np.broadcast_arrays(r[:, :, None], c[:, None])
    below = spread(rows_below, cols_below)
    places = [augment._Places(rows, rows_below), augment._Places(cols, cols_below)]
    grid = map(augment._Places, spread(rows, cols), below)
    np.testing.assert_allclose(
        jax.jit(augment._separable)(IMAGES, *places),
        jax.jit(augment._bilinear)(IMAGES, *grid),
        atol=1e-12,
    )


def test_the_others_are_their_formulas(key):
    u = jax.random.uniform(key, (3, 1), IMAGES.dtype, -1.0, 1.0)
    factors = np.asarray(1 + 0.4 * u)[:, :, None, None]
    noise = np.asarray(jax.random.normal(key, IMAGES.shape))
    images = np.asarray(IMAGES)
    np.testing.assert_allclose(brighten(key, IMAGES, 0.4), images * factors)
    np.testing.assert_allclose(add_noise(key, IMAGES, 0.4), images + 0.4 * noise)


def test_mixup_mixes_inputs_and_targets_alike(key):
    """Whatever is linear in the inputs is the same mixture of the targets."""
    x = jnp.eye(50)
    mixed, targets = map(np.asarray, compiled(mixup)(key, x, 2 * x[:, :20], 0.6))
    np.testing.assert_allclose(targets, 2 * mixed[:, :20])
    np.testing.assert_allclose(mixed.sum(axis=1), 1)
    own = np.diag(mixed)
    assert 0.4 <= own.min() < 0.6 < own.max() <= 1
    # A permutation: no example is the partner of two others.
    assert np.max(np.sum(mixed > 0, axis=0)) <= 2


def test_strength_zero_is_the_identity(key):
    *images, mixed = compiled(all_of(IMAGES))(key, 0.0)
    for image in images:
        np.testing.assert_array_equal(image, IMAGES.ravel())
    both = np.concatenate([IMAGES.ravel(), TARGETS.ravel()])
    np.testing.assert_array_equal(mixed, both)


def test_derivative_in_the_strength_is_that_of_a_path(key):
    """Of every pixel, by central differences."""
    fn, h = all_of(IMAGES), 1e-6
    values = compiled(fn)
    slopes = compiled(lambda s: jax.jvp(lambda s: fn(key, s), (s,), (1.0,))[1])(0.317)
    up, down = values(key, 0.317 + h), values(key, 0.317 - h)
    for slope, above, below in zip(slopes, up, down, strict=True):
        assert np.linalg.norm(slope) > 0.1
        found = (np.asarray(above) - np.asarray(below)) / (2 * h)
        np.testing.assert_allclose(slope, found, atol=1e-8)


def test_derivative_at_strength_zero_is_the_right_one(key):
    """All positions are integers there, and the left derivative is another."""
    fn, h = all_of(IMAGES), 1e-7
    values = compiled(fn)
    slopes = compiled(lambda s: jax.jvp(lambda s: fn(key, s), (s,), (1.0,))[1])(0.0)
    at, right, left = values(key, 0.0), values(key, h), values(key, -h)
    for i, (slope, x, above, below) in enumerate(
        zip(slopes, at, right, left, strict=True)
    ):
        x, above, below = np.asarray(x), np.asarray(above), np.asarray(below)
        np.testing.assert_allclose(slope, (above - x) / h, atol=2e-5)
        if i < len(MOVES):
            assert np.mean(np.abs(slope - (x - below) / h) > 1e-3) > 0.5


@pytest.mark.parametrize("strength", [0.0, 0.05])
def test_moving_an_even_image_changes_none_of_its_inside(key, strength):
    """Weights sum to one, so their slopes sum to zero, at integers too."""
    even = jnp.ones((4, 7, 7, 1))
    fn = lambda s: [move(key, even, s) for move in MOVES]
    values, slopes = compiled(lambda s: jax.jvp(fn, (s,), (1.0,)))(strength)
    for value, slope in zip(values, slopes, strict=True):
        np.testing.assert_allclose(value[:, 2:-2, 2:-2], 1.0, atol=1e-12)
        np.testing.assert_allclose(slope[:, 2:-2, 2:-2], 0.0, atol=1e-12)
        assert np.abs(slope).max() > 0.1  # what moves out of the image fades


@pytest.mark.slow
def test_a_gradient_at_strength_zero_is_that_of_the_jvp(key):
    """Reverse mode takes that side, and float32 does where 1e-9 moves nothing."""
    loss = lambda x, s: sum(jnp.sum(move(key, x, s) * x**2) for move in MOVES)
    grad = compiled(jax.grad(loss, argnums=1))
    forward = compiled(lambda x, s: jax.jvp(lambda s: loss(x, s), (s,), (1.0,))[1])
    np.testing.assert_allclose(grad(IMAGES, 0.0), forward(IMAGES, 0.0), rtol=1e-10)
    narrow = IMAGES.astype(jnp.float32)
    tiny, zero = (grad(narrow, jnp.float32(s)) for s in (1e-9, 0.0))
    np.testing.assert_allclose(tiny, zero, rtol=1e-5)


@pytest.mark.parametrize("change", CHANGES)
def test_a_strength_for_each_example_is_refused(key, change):
    for strength in (jnp.ones(3), jnp.ones(1)):
        with pytest.raises(ValueError, match=r"scalar, got shape \(.,\).* jax.vmap"):
            change(key, IMAGES, strength)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_modes_agree_and_second_derivatives_exist(key, change):
    value = lambda s: change(key, IMAGES, s)
    weights = jnp.asarray(RNG.normal(size=value(0.3).shape))
    probe = lambda s: jnp.sum(value(s) * weights)
    slope = jax.jvp(value, (0.3,), (1.0,))[1]
    total, twice = jax.jvp(jax.grad(probe), (0.3,), (1.0,))
    np.testing.assert_allclose(total, jnp.sum(slope * weights), rtol=1e-10)
    h = 1e-5
    found = (jax.grad(probe)(0.3 + h) - jax.grad(probe)(0.3 - h)) / (2 * h)
    np.testing.assert_allclose(twice, found, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_derivative_in_the_images(key, change):
    """Distillation with augmentation needs it: linear, so the jvp is the change."""
    tangent = jnp.asarray(RNG.normal(size=IMAGES.shape))
    fn = lambda x: change(key, x, 0.3)
    _, got = jax.jvp(fn, (IMAGES,), (tangent,))
    np.testing.assert_allclose(got, fn(IMAGES + tangent) - fn(IMAGES), atol=1e-12)
    cotangent = jnp.asarray(RNG.normal(size=got.shape))
    (back,) = jax.vjp(fn, IMAGES)[1](cotangent)
    np.testing.assert_allclose(
        jnp.vdot(cotangent, got), jnp.vdot(back, tangent), rtol=1e-10
    )


@pytest.mark.parametrize("change", CHANGES)
def test_narrow_images_stay_narrow(key, change):
    images = jax.ShapeDtypeStruct(IMAGES.shape, jnp.bfloat16)
    out = jax.eval_shape(change, key, images, jnp.float64(0.3))
    assert out.dtype == (jnp.float64 if change is mix else jnp.bfloat16)


@pytest.mark.parametrize("change", [*MOVES, brighten])
def test_what_is_no_batch_of_images_is_refused(key, change):
    with pytest.raises(ValueError, match=r"images must be \[B, H, W, C\], got shape"):
        change(key, IMAGES[0], 0.1)
    with pytest.raises(ValueError, match="images must hold floats, got int"):
        change(key, jnp.ones((1, 2, 2, 1), jnp.int32), 0.1)


def test_classes_must_be_probabilities_to_be_mixed(key):
    with pytest.raises(ValueError, match="jax.nn.one_hot.* must hold floats"):
        mixup(key, IMAGES, jnp.arange(3), 0.1)
