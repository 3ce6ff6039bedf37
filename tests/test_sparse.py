"""Sparse matrices against scipy's, alone and as the data of a training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

import hypergrad as hg
from hypergrad.losses import cross_entropy
from hypergrad.models import mlp
from hypergrad.sparse import SparseMatrix, from_csr, matmul

RNG = np.random.default_rng(0)
CSR = scipy.sparse.random(9, 7, density=0.3, format="csr", random_state=0)
DENSE = RNG.normal(size=(7, 3))


def sparse(csr):
    return from_csr(csr.data, csr.indices, csr.indptr, csr.shape)


def test_products_are_those_of_scipy():
    product = jax.jit(matmul)
    np.testing.assert_allclose(product(sparse(CSR), DENSE), CSR @ DENSE, rtol=1e-12)
    np.testing.assert_allclose(sparse(CSR) @ DENSE[:, 0], CSR @ DENSE[:, 0], rtol=1e-12)
    coo = CSR.tocoo()
    order = RNG.permutation(coo.nnz)
    parts = (jnp.asarray(part[order]) for part in (coo.data, coo.row, coo.col))
    shuffled = SparseMatrix(*parts, CSR.shape)
    np.testing.assert_allclose(product(shuffled, DENSE), CSR @ DENSE, rtol=1e-12)


def test_empty_rows_repeated_entries_and_counts():
    repeated = from_csr([1, 2, 3], [1, 1, 0], [0, 2, 2, 3], (3, 2))
    assert repeated.values.dtype == jnp.float64
    np.testing.assert_array_equal(repeated @ jnp.eye(2), [[0, 3], [0, 0], [3, 0]])
    nothing = from_csr([], [], [0, 0], (1, 2))
    np.testing.assert_array_equal(nothing @ jnp.ones(2), [0])


def test_derivatives_are_the_transpose():
    matrix, v = sparse(CSR), RNG.normal(size=(7, 3))
    c = RNG.normal(size=(9, 3))

    @jax.jit
    def derivatives(w):
        product = lambda w: matrix @ w
        loss = lambda w: jnp.sum(jnp.exp(product(w)) * c)
        return (
            jax.jvp(product, (w,), (v,))[1],
            jax.vjp(product, w)[1](jnp.asarray(c))[0],
            jax.jvp(jax.grad(loss), (w,), (v,))[1],
            jax.grad(
                lambda values: jnp.sum(
                    SparseMatrix(values, matrix.rows, matrix.cols, matrix.shape) @ w * c
                )
            )(matrix.values),
        )

    push, back, curved, values = derivatives(DENSE)
    np.testing.assert_allclose(push, CSR @ v, rtol=1e-12)
    np.testing.assert_allclose(back, CSR.T @ c, rtol=1e-12, atol=1e-15)
    expected = CSR.T @ (np.exp(CSR @ DENSE) * c * (CSR @ v))
    np.testing.assert_allclose(curved, expected, rtol=1e-10, atol=1e-12)
    coo = CSR.tocoo()
    np.testing.assert_allclose(values, (c @ DENSE.T)[coo.row, coo.col], rtol=1e-10)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([1.0], [0], [0, 1], (2, 2)), r"indptr must be \[3\] for 2 rows"),
        (([1.0], [0], [1, 1, 1], (2, 2)), "begin at 0"),
        (([1.0], [0], [0, 2, 1], (2, 2)), "not decrease"),
        (([1.0], [0], [0, 1, 2], (2, 2)), "must have indptr's 2 entries"),
        (([1.0, 1.0], [0, 2], [0, 1, 2], (2, 2)), r"indices must lie in 0 ... 1"),
        (([1.0, 1.0], [0, -1], [0, 1, 2], (2, 2)), r"indices must lie in 0 ... 1"),
    ],
)
def test_arrays_that_are_no_matrix_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        from_csr(*arrays)


@pytest.mark.parametrize("dense", [DENSE[:6], DENSE.T, DENSE[0, 0], DENSE[None]])
def test_a_factor_that_does_not_fit_is_refused(dense):
    with pytest.raises(ValueError, match=r"dense must have shape \(7,\) or \(7, k\)"):
        matmul(sparse(CSR), dense)


@pytest.mark.parametrize(
    ("rows", "cols", "message"),
    [
        ([0, 9], [0, 1], r"rows must lie in 0 ... 8 .* got 0 ... 9"),
        ([0, 1], [-1, 1], r"cols must lie in 0 ... 6 .* got -1 ... 1"),
        ([0, 1], [0.0, 1.0], "cols must be integers; got float64"),
        ([0], [0, 1], r"of one shape \[nnz\]"),
    ],
)
def test_entries_outside_of_the_shape_are_refused(rows, cols, message):
    arrays = np.ones(2), np.asarray(rows), np.asarray(cols)
    for given in (arrays, map(jnp.asarray, arrays)):
        with pytest.raises(ValueError, match=message):
            SparseMatrix(*given, (9, 7))  # type: ignore[arg-type]


def test_a_pytree_of_anything():
    """Tracers, None and what maps make of the leaves; only the constructor looks."""
    matrix = sparse(CSR)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(matrix)]
    assert paths == [".values", ".rows", ".cols"]
    shifted = jax.tree.map(lambda x: x - 1.0, matrix)
    assert float(jnp.min(shifted.rows)) == -1
    assert jax.tree.map(lambda x: None, matrix).values is None
    same = jax.jit(lambda a: SparseMatrix(a.values, a.rows, a.cols, a.shape))(matrix)
    np.testing.assert_allclose(same @ DENSE, CSR @ DENSE, rtol=1e-12)


@pytest.mark.parametrize(
    "batches",
    [
        hg.WithReplacement(2),
        hg.Epochs(2),
        hg.IndexTable(jnp.zeros((1, 2), jnp.int32)),
    ],
    ids=lambda batches: type(batches).__name__,
)
def test_rows_of_a_sparse_matrix_are_no_minibatches(batches, key):
    data = (sparse(CSR), jnp.ones(9))
    with pytest.raises(ValueError, match=r"SparseMatrix of shape \(9, 7\).*FullBatch"):
        batches.gather(data, jnp.int32(0), key)
    assert hg.FullBatch().gather(data, jnp.int32(0), key) is data


def logistic(inputs, valid, num_steps):
    """Logistic regression by gradient descent; λ its rate and decay."""
    model = mlp([inputs.shape[1], 3])
    labels = jnp.arange(inputs.shape[0]) % 3

    def loss(weights, data):
        x, y = data
        return cross_entropy(model.apply(weights, x), y).mean()

    return hg.Problem(
        init=lambda key, hp: jax.tree.map(jnp.zeros_like, model.init(key)),
        inner_loss=lambda w, hp, data: loss(w, data) + hg.l2(w, hp["decay"]),
        outer_loss=lambda w, hp, data: loss(w, data),
        optimizer=lambda hp: optax.sgd(hp["rate"]),
        train=(inputs, labels),
        valid=(valid, labels),
        num_steps=num_steps,
        batches=hg.FullBatch(),
    )


@pytest.mark.parametrize(
    "estimator",
    [
        hg.Reverse(),
        pytest.param(hg.Forward(), marks=pytest.mark.slow),
        pytest.param(hg.Implicit(), marks=pytest.mark.slow),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_training_on_sparse_rows_is_that_on_dense_rows(estimator, key):
    other = scipy.sparse.random(9, 7, density=0.3, format="csr", random_state=1)
    problem = logistic(sparse(CSR), sparse(other), 4)
    dense = problem.replace(
        data=problem.data._replace(
            train=(jnp.asarray(CSR.toarray()), problem.data.train[1]),
            valid=(jnp.asarray(other.toarray()), problem.data.valid[1]),
        )
    )
    problem, dense = (p.replace(num_steps=60) for p in (problem, dense))
    hparams = {"rate": jnp.asarray(2.0), "decay": jnp.asarray(0.05)}
    found, expected = (
        jax.jit(
            hg.value_and_hypergrad(p, estimator),
            compiler_options={"xla_backend_optimization_level": 0},
        )(hparams, key)
        for p in (problem, dense)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), found, expected
    )
    assert expected[1]["decay"] != 0


@pytest.mark.slow
def test_an_estimate_from_sparse_rows_verifies(key):
    problem = logistic(sparse(CSR), sparse(CSR), 5)
    report = hg.verify(problem, hg.Reverse(), {"rate": 2.0, "decay": 0.05}, key)
    assert report.ok, report
