"""Linear models trained to the end: ridge, logistic regression, elastic net.

    w*(λ) = argmin_w (1/n) Σ_i loss(x_i w, y_i) + penalty_λ(w),   F = loss on validation

λ is one penalty for all features, one for each, or one for each group of them. Inputs
are multiplied by a number that makes the curvature of the mean loss at most 1, so that
one rate serves every data set: steps are the gradient over 1 + λ with momentum, or
proximal ones for the elastic net. Every problem is convex: `Implicit()` applies, and to
the elastic net with `operator = "FixedPoint"`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field
from scipy.sparse import csr_matrix, vstack
from scipy.sparse.linalg import svds

import hypergrad as hg
from experiments.data.sources import load
from experiments.data.sparse import Csr
from experiments.data.splits import draw
from experiments.registry import Task, register, remembered
from hypergrad.sparse import from_csr

Name = Literal["digits", "a9a", "news20"]
Penalty = Literal["one", "feature", "group"]
# Last column (1-based) of each of the 14 attributes that a9a's 123 features encode.
A9A_ENDS = (5, 13, 18, 34, 39, 46, 60, 66, 71, 73, 75, 77, 82, 123)
Count = Annotated[int, Field(ge=1)]


class Part(NamedTuple):
    """Rows of features [n, d], and their classes [n]."""

    inputs: csr_matrix
    targets: np.ndarray


@register("linear")
class Linear(Task):
    """Options of the task.

    Attributes:
        source: digits (64 pixels; embedded), a9a (123 features, two classes) or news20
            (130,107 words, each text of length 1, 20 classes).
        loss: "ridge" and "elastic_net" are half the squared distance to the one-hot
            class, "logistic" the cross-entropy of a softmax.
        penalty: what has a penalty of its own: all features together, each, or each
            group: a row of pixels, an attribute of a9a, words of similar frequency.
        num_train, num_valid, num_test: rows, disjoint, drawn by the seed; where the
            publisher has a test part, the last are drawn from it.
        num_steps: T.
        momentum: of the steps; proximal ones have none.
        fit_on: what the weights are trained on; "both" is a reference that shows what
            plain training could do with the validation rows.
    """

    question: ClassVar[frozenset[str]] = Task.question | {"loss"}
    source: Name = "digits"
    loss: Literal["ridge", "logistic", "elastic_net"] = "logistic"
    penalty: Penalty = "one"
    num_train: Count = 200
    num_valid: Count = 200
    num_test: Count = 1000
    num_steps: Count = 300
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    fit_on: Literal["train", "both"] = "train"

    @property
    def fits_validation(self) -> bool:
        """Whether the validation rows are among those trained on."""
        return self.fit_on == "both"

    def splits(self, seed: int) -> tuple[Part, Part, Part]:
        """Train, validation and test rows of a seed; they never overlap."""
        return _parts(self, seed)

    def space(self) -> hg.Space:
        """`decay`, or `l1` and `decay` for the elastic net."""
        num_groups = int(_groups(self.source, self.penalty).max()) + 1
        shape = () if self.penalty == "one" else (num_groups,)
        entries = {"decay": hg.Log(1e-5, 10.0, default=1e-3, shape=shape)}
        if self.loss == "elastic_net":
            entries = {"l1": hg.Log(1e-5, 1.0, default=1e-3, shape=shape)} | entries
        return hg.Space(entries)

    def problem(self, seed: int) -> hg.Problem:
        """The validation loss of the trained model, without its penalty."""
        model, valid = _model(self), self.splits(seed)[1]
        return hg.Problem(
            init=model.init,
            inner_loss=model.inner_loss,
            outer_loss=model.outer_loss,
            optimizer=model.optimizer,
            train=self.on_device(seed, _fitted(self, seed)),
            valid=self.on_device(seed, valid),
            num_steps=self.num_steps,
        )

    def on_device(self, seed: int, part: Part):
        """(inputs times the scale of the seed, targets), what the losses read."""
        x = part.inputs * _scale(self, seed)
        if self.source == "digits":  # Of whose pixels few are 0.
            inputs = jnp.asarray(x.toarray(), jnp.result_type(float))
        else:
            inputs = from_csr(x.data, x.indices, x.indptr, x.shape)
        return inputs, jnp.asarray(part.targets)

    def validation(self, seed: int):
        """Accuracy and loss on the validation rows."""
        return self._metrics(seed, self.splits(seed)[1])

    def test(self, seed: int):
        """Accuracy and loss on the test rows."""
        return self._metrics(seed, self.splits(seed)[2])

    def pictures(self, seed, hparams):
        """The penalty of each pixel."""
        del seed
        if self.source != "digits" or self.penalty == "one":
            return {}
        spread = _model(self).spread
        return {
            f"log10 {name} of each pixel": jnp.log10(spread(value)).reshape(1, 8, 8)
            for name, value in hparams.items()
        }

    def _metrics(self, seed: int, part: Part):
        model = _model(self)
        inputs, targets = self.on_device(seed, part)

        def metrics(state, hparams):
            del hparams
            outputs = inputs @ state.weights
            correct = jnp.argmax(outputs, axis=1) == targets
            return {
                "accuracy": jnp.mean(correct.astype(outputs.dtype)),
                "loss": model.mean_loss(outputs, targets),
            }

        return metrics


@dataclass(frozen=True, eq=False)
class _Model:
    """What the problem is made of; weights are a matrix [d, classes].

    Attributes:
        loss: that of the task.
        shape: of the weights.
        groups: the group of each feature, [d]; None where all share a number.
        momentum: that of the task.
    """

    loss: str
    shape: tuple[int, int]
    groups: np.ndarray | None
    momentum: float

    def init(self, key, hparams):
        del key, hparams
        return jnp.zeros(self.shape)

    def inner_loss(self, weights, hparams, batch):
        value = self.outer_loss(weights, hparams, batch)
        if self.loss == "elastic_net":  # Its penalty is in the steps.
            return value
        return value + hg.l2(weights, self._of_weights(hparams["decay"]))

    def outer_loss(self, weights, hparams, batch):
        del hparams
        inputs, targets = batch
        return self.mean_loss(hg.outputs(inputs @ weights), targets)

    def mean_loss(self, outputs, targets):
        if self.loss == "logistic":
            return jnp.mean(hg.cross_entropy(outputs, targets))
        one_hot = jax.nn.one_hot(targets, self.shape[1], dtype=outputs.dtype)
        return 0.5 * jnp.mean(jnp.sum(jnp.square(outputs - one_hot), axis=1))

    def optimizer(self, hparams):
        if self.loss == "elastic_net":
            l1, l2 = (self._of_weights(hparams[name]) for name in ("l1", "decay"))
            return hg.proximal_sgd(1.0, l1=l1, l2=l2)
        # The Hessian is at most I + diag(λ): a diagonal preconditioner bounds it by 1.
        curvature = 1.0 + self._of_weights(hparams["decay"])
        precondition = optax.stateless(
            lambda grads, _: jax.tree.map(lambda g: g / curvature, grads)
        )
        return optax.chain(precondition, optax.sgd(1.0, momentum=self.momentum))

    def spread(self, coefficient):
        """A coefficient as one for each feature, [d]."""
        if self.groups is None:
            return jnp.broadcast_to(coefficient, self.shape[:1])
        return coefficient[self.groups]

    def _of_weights(self, coefficient):
        return jnp.broadcast_to(self.spread(coefficient)[:, None], self.shape)


@remembered
def _model(task: Linear) -> _Model:
    rows, _ = _source(task.source)
    _, num_features = cast(tuple[int, int], rows.inputs.shape)
    shape = num_features, int(rows.targets.max()) + 1
    groups = None if task.penalty == "one" else _groups(task.source, task.penalty)
    return _Model(task.loss, shape, groups, task.momentum)


@remembered
def _source(name: Name) -> tuple[Part, Part | None]:
    """All rows, and those that the publisher keeps apart."""
    data = load(name)

    def part(rows):
        x = rows.inputs
        if isinstance(x, Csr):
            inputs = csr_matrix((x.data, x.indices, x.indptr), x.shape)
        else:
            inputs = csr_matrix(x.reshape(len(x), -1))
        if name == "news20":  # Long texts count no more than short ones.
            lengths = np.sqrt(inputs.multiply(inputs).sum(axis=1))
            inputs = csr_matrix(inputs.multiply(1.0 / np.asarray(lengths)))
        return Part(inputs, rows.targets)

    return part(data.train), None if data.test is None else part(data.test)


@remembered
def _groups(source: Name, penalty: Penalty) -> np.ndarray:
    """The group of each feature, [d]."""
    inputs = _source(source)[0].inputs
    features = np.arange(cast(tuple[int, int], inputs.shape)[1])
    if penalty == "one":
        return np.zeros_like(features)
    if penalty == "feature":
        return features
    if source == "digits":
        return features // 8
    if source == "a9a":
        return np.searchsorted(A9A_ENDS, features + 1)
    return np.log2(np.maximum(inputs.getnnz(axis=0), 1)).astype(int)


@remembered
def _parts(task: Linear, seed: int) -> tuple[Part, Part, Part]:
    rows, held = _source(task.source)
    sizes = [task.num_train, task.num_valid]
    if held is None:
        *known, test = draw(len(rows.targets), [*sizes, task.num_test], seed)
        held = rows
    else:
        known = draw(len(rows.targets), sizes, seed)
        (test,) = draw(len(held.targets), [task.num_test], seed)
    train, valid = (Part(rows.inputs[part], rows.targets[part]) for part in known)
    return train, valid, Part(held.inputs[test], held.targets[test])


def _fitted(task: Linear, seed: int) -> Part:
    """What the weights are trained on."""
    train, valid, _ = task.splits(seed)
    if not task.fits_validation:
        return train
    inputs = csr_matrix(vstack([train.inputs, valid.inputs]))
    return Part(inputs, np.concatenate([train.targets, valid.targets]))


@remembered
def _scale(task: Linear, seed: int) -> float:
    """What to multiply inputs with: the mean loss then has a curvature of at most 1.

    That of squares is XᵀX / n, and that of a softmax at most half of it (Böhning 1992).
    """
    matrix = _fitted(task, seed).inputs.astype(float)
    n, d = cast(tuple[int, int], matrix.shape)
    start = np.ones(min(n, d))
    largest = cast(
        np.ndarray, svds(matrix, k=1, v0=start, return_singular_vectors=False)
    )
    bound = 0.5 if task.loss == "logistic" else 1.0
    return float((bound * largest[0] ** 2 / n) ** -0.5)
