"""What the tasks on labelled rows share: a model, a recipe, splits by seed.

A task says where its rows come from (`data`); all else is options:

    [task]
    name  = "digits_images"
    model = { name = "cnn", filters = 8, norm = "batch" }
    tune  = ["rate", "decay", "shift", "rotation"]
    fixed = { momentum = 0.5 }
"""

import abc
import math
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

import hypergrad as hg
from experiments.data.splits import draw, draw_stratified, wrong_labels
from experiments.registry import Task, remembered
from experiments.supervised.networks import AnyNetwork, Perceptron, Shapes
from experiments.supervised.recipe import Pretrained, Recipe
from experiments.supervised.vocabulary import OPTIMIZERS, SCHEDULES, Sizes, entries

Count = Annotated[int, Field(ge=1)]


class Source(NamedTuple):
    """All rows of a data set.

    Attributes:
        inputs: [n, ...]: images are [n, height, width, channels].
        targets: classes [n] (or [n, time]), or numbers [n, k].
        num_outputs: classes, or k.
        vocabulary: how many tokens inputs are made of; 0 where they are numbers.
        valid, test: inputs and targets for this use alone: what the publisher keeps
            apart, or a later stretch of time.
    """

    inputs: np.ndarray
    targets: np.ndarray
    num_outputs: int
    vocabulary: int = 0
    valid: tuple[np.ndarray, np.ndarray] | None = None
    test: tuple[np.ndarray, np.ndarray] | None = None


class Rows(NamedTuple):
    """Inputs [n, ...], targets as shown in training, and the true ones."""

    inputs: np.ndarray
    targets: np.ndarray
    truth: np.ndarray


class Splits(NamedTuple):
    """What a seed makes of a source; no row is in two of them."""

    train: Rows
    valid: Rows
    test: Rows


class Supervised(Task):
    """Options of every task on labelled rows.

    Attributes:
        model: a network of `experiments.supervised.networks`.
        optimizer: a name of `experiments.supervised.vocabulary.OPTIMIZERS`.
        schedule: of the learning rate; "table" has a rate a step, "layer_table" a rate
            a step and layer.
        knots: of the "piecewise" schedule.
        tune: the continuous hyperparameters that λ is made of.
        fixed: values of others; what optimiser and schedule need has a default.
        num_steps: T.
        batch_size: rows a step; 0 for all.
        num_train, num_valid, num_test: rows of each set, disjoint, drawn by the seed.
        label_noise: fraction of training labels replaced by another class.
        fit_on: what the weights are trained on; "valid" and "both" are references that
            show what plain training could do with the validation rows, and "oracle"
            what it could do with those and the training rows whose label is right.
    """

    squared_error: ClassVar[bool] = False
    every: ClassVar[bool] = False
    question: ClassVar[frozenset[str]] = Task.question | {"label_noise"}

    model: AnyNetwork = Perceptron()
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "rmsprop"] = "sgd"
    schedule: Literal[
        "constant", "exponential", "cosine", "piecewise", "table", "layer_table"
    ] = "constant"
    knots: Annotated[int, Field(ge=2)] = 8
    tune: Annotated[tuple[str, ...], Field(min_length=1)] = ("rate", "momentum")
    fixed: dict[str, float] = {}
    num_steps: Count = 100
    batch_size: Annotated[int, Field(ge=0)] = 32
    num_train: Count = 240
    num_valid: Count = 100
    num_test: Count = 800
    label_noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fit_on: Literal["train", "valid", "both", "oracle"] = "train"

    @model_validator(mode="before")
    @classmethod
    def _model_is_the_tasks_own(cls, table):
        """`model.width = 64` alone changes nothing else of the task's own model."""
        if not isinstance(table, dict):
            return table
        # What has been through here is no JSON any more: strictly, no list is a tuple.
        table = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        model, own = table.get("model"), cls.model_fields["model"].default.model_dump()
        if isinstance(model, dict) and model.get("name", own["name"]) == own["name"]:
            table["model"] = own | model
        return table

    @model_validator(mode="after")
    def _options_agree(self):
        if len(set(self.tune)) < len(self.tune):
            raise ValueError(f"tune names something twice: {list(self.tune)}")
        if both := sorted(set(self.tune) & set(self.fixed)):
            raise ValueError(f"{both} cannot be in tune and in fixed")
        if not all(map(math.isfinite, self.fixed.values())):
            raise ValueError(f"fixed must hold finite numbers; got {self.fixed}")
        if self.batch_size > self.num_rows:
            raise ValueError(
                f"batch_size {self.batch_size} exceeds the {self.num_rows} rows that "
                f'fit_on = "{self.fit_on}" trains on'
            )
        if "example_weights" in self.tune and self.fit_on != "train":
            raise ValueError('example_weights in tune needs fit_on = "train"')
        if self.label_noise and self.squared_error:
            raise ValueError("label_noise needs a task with classes")
        return self

    @abc.abstractmethod
    def data(self) -> Source:
        """All rows; called once."""

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each set."""
        sizes = self.num_train, self.num_valid, self.num_test
        return dict(zip(("train", "valid", "test"), sizes, strict=True))

    def splits(self, seed: int) -> Splits:
        """The rows of a seed: disjoint draws, from what is apart if there is any."""
        source, sizes = _source(self), self.sizes
        apart = {"valid": source.valid, "test": source.test}
        pools = [([name], pool) for name, pool in apart.items() if pool is not None]
        together = [name for name in sizes if apart.get(name) is None]
        sets = {}
        for names, pool in [(together, (source.inputs, source.targets)), *pools]:
            parts = self._drawn(pool[1], [sizes[name] for name in names], seed)
            rows = [_rows(*pool, part) for part in parts]
            sets |= dict(zip(names, rows, strict=True))
        splits = Splits(**sets)
        if self.label_noise:
            truth, classes = splits.train.truth, source.num_outputs
            shown, _ = wrong_labels(truth, self.label_noise, classes, seed)
            splits = splits._replace(train=splits.train._replace(targets=shown))
        return splits

    def _drawn(self, targets: np.ndarray, sizes: list[int], seed: int):
        """Each class in its proportion, where there are classes."""
        if self.squared_error or targets.ndim > 1:
            return draw(len(targets), sizes, seed)
        return draw_stratified(targets, sizes, seed)

    def start_from(self, seed: int) -> Pretrained | None:
        """What training begins with in place of weights that are drawn."""
        del seed
        return None

    @property
    def pretrained(self) -> bool:
        """Whether there is a `start_from`."""
        return False

    @property
    def fits_validation(self) -> bool:
        """Whether the validation rows are among those trained on."""
        return self.fit_on != "train"

    @property
    def num_rows(self) -> int:
        """Rows that the weights are trained on."""
        sizes = self.sizes
        if self.fit_on == "oracle":
            wrong = round(self.label_noise * sizes["train"])
            return sizes["train"] - wrong + sizes["valid"]
        return sizes.get(self.fit_on, sizes["train"] + sizes["valid"])

    def space(self) -> hg.Space:
        """The hyperparameters of `tune`."""
        _check(self)
        return hg.Space(_entries(self, self.tune))

    def problem(self, seed: int) -> hg.Problem:
        """The mean validation loss after T steps of the recipe."""
        recipe, splits = _recipe(self), _splits(self, seed)
        train = _right(splits.train) if self.fit_on == "oracle" else splits.train
        parts = {"train": [train], "valid": [splits.valid]}
        parts = parts.get(self.fit_on, [train, splits.valid])
        inputs = np.concatenate([part.inputs for part in parts])
        targets = np.concatenate([part.targets for part in parts])
        return hg.Problem.with_context(
            init=recipe.init,
            inner_loss=recipe.inner_loss,
            outer_loss=recipe.outer_loss,
            optimizer=recipe.optimizer,
            train=(inputs, targets, np.arange(len(inputs))),
            valid=(splits.valid.inputs, splits.valid.truth),
            num_steps=self.num_steps,
            batch_size=self.batch_size or None,
            given=self.start_from(seed),
        )

    def validation(self, seed: int):
        """Metrics of the validation rows."""
        return self._metrics(_splits(self, seed).valid)

    def test(self, seed: int):
        """Metrics of the test rows."""
        return self._metrics(_splits(self, seed).test)

    def schedules(self, hparams):
        """The learning rate over the steps, of each layer if there is one of each."""
        rates = _recipe(self).rate(hparams)(jnp.arange(self.num_steps))
        if rates.ndim == 1 and "layer_rates" not in hparams:
            return {"learning rate": rates}
        names = _layers(self)
        scales = jnp.broadcast_to(hparams.get("layer_rates", 1.0), len(names))
        rates = rates.reshape(self.num_steps, -1) * scales[None]
        return {f"rate of {name}": rates[:, i] for i, name in enumerate(names)}

    def distributions(self, seed, hparams):
        """The weights of rightly and of wrongly labelled rows."""
        if "example_weights" not in hparams or not self.label_noise:
            return {}
        train, weights = _splits(self, seed).train, hparams["example_weights"]
        right = train.targets == train.truth
        groups = {"right label": weights[right], "wrong label": weights[~right]}
        return {"weight of a training row": groups}

    def _metrics(self, rows: Rows):
        recipe = _recipe(self)
        inputs, truth = jnp.asarray(rows.inputs), jnp.asarray(rows.truth)

        def metrics(state, hparams):
            del hparams
            outputs = recipe.outputs(state, inputs)
            loss = jnp.mean(recipe.losses(outputs, truth, 0.0))
            if self.squared_error:
                return {"loss": loss, "rmse": jnp.sqrt(loss)}
            correct = jnp.argmax(outputs, axis=-1) == truth
            return {"loss": loss, "accuracy": jnp.mean(correct.astype(loss.dtype))}

        return metrics


@remembered
def _source(task: Supervised) -> Source:
    return task.data()


@remembered
def _splits(task: Supervised, seed: int) -> Splits:
    return task.splits(seed)


@remembered
def _model(task: Supervised):
    """The model, and what its weights look like."""
    source = _source(task)
    row = jax.ShapeDtypeStruct((1, *source.inputs.shape[1:]), source.inputs.dtype)
    arranged = jax.eval_shape(
        lambda x: task.model.arrange(x, bool(source.vocabulary)), row
    )
    shapes = Shapes(
        arranged.shape[1:], source.vocabulary, source.num_outputs, task.every
    )
    model = task.model.build(shapes)
    weights, _ = jax.eval_shape(model.init, jax.random.key(0))
    return model, weights


def _layers(task: Supervised) -> tuple[str, ...]:
    return hg.layer_names(_model(task)[1])


def _entries(task: Supervised, names) -> dict[str, hg.Hyperparameter]:
    source = _source(task)
    _, weights = _model(task)
    sizes = Sizes(
        num_steps=task.num_steps,
        knots=task.knots,
        layers=len(hg.layer_names(weights)),
        weights=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(weights)),
        rows=task.num_rows,
        classes=0 if task.squared_error else source.num_outputs,
    )
    return entries(
        names,
        sizes,
        optimizer=task.optimizer,
        schedule=task.schedule,
        numbers=not source.vocabulary,
        images=source.inputs.ndim == 4,
        pretrained=task.pretrained,
    )


@remembered
def _check(task: Supervised) -> None:
    """Raise a `ValueError` where names, values or sizes do not fit the task's data."""
    _entries(task, (*task.tune, *task.fixed))
    for name, entry in _entries(task, tuple(task.fixed)).items():
        value = task.fixed[name]
        if value != 0 and not entry.low <= value <= entry.high:
            raise ValueError(
                f"fixed.{name} must be 0 or lie in [{entry.low:g}, {entry.high:g}]; "
                f"got {value:g}"
            )
    task.splits(0)


@remembered
def _recipe(task: Supervised) -> Recipe:
    """One object for equal options: functions hash by identity, and so trace once."""
    needed = (*SCHEDULES[task.schedule], *OPTIMIZERS[task.optimizer])
    given = {**dict.fromkeys(needed), **task.fixed}
    names = [name for name in given if name not in task.tune]
    fixed = {}
    for name, entry in _entries(task, names).items():
        value = entry.default if given[name] is None else given[name]
        fixed[name] = np.broadcast_to(np.asarray(value), entry.shape)
    source = _source(task)
    return Recipe(
        network=task.model,
        model=_model(task)[0],
        tokens=bool(source.vocabulary),
        classes=0 if task.squared_error else source.num_outputs,
        optimizer_name=task.optimizer,
        schedule_name=task.schedule,
        num_steps=task.num_steps,
        fixed=fixed,
    )


def _rows(inputs, targets, part) -> Rows:
    return Rows(inputs[part], targets[part], targets[part])


def _right(rows: Rows) -> Rows:
    """Those whose label is shown as it is."""
    same = (rows.targets == rows.truth).reshape(len(rows.truth), -1).all(axis=1)
    return Rows(*(array[same] for array in rows))
