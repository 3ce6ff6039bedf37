"""One cell on one seed: the search, the choice of λ, the test with fresh keys."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hypergrad as hg
from experiments.cells import Cell
from experiments.choices import as_written, hashable
from experiments.faults import ConfigError, Fault
from experiments.files import StoreError
from experiments.programs import Programs, timed
from experiments.progress import Report
from experiments.results import SeedResult, read_result
from experiments.store import RunFolder, measured_once, open_run
from hypergrad import study
from hypergrad.by_choice import map_by_choice, once_per_choice
from hypergrad.runner import EXECUTIONS, Execution, evaluate

SAVE_EVERY = 5.0  # seconds between two checkpoints


class Keys(NamedTuple):
    """What a seed is used for; the same for every method."""

    search: jax.Array
    train: jax.Array
    select: jax.Array
    retrain: jax.Array

    @classmethod
    def of(cls, seed: int) -> "Keys":
        """Four independent keys."""
        return cls(*jax.random.split(jax.random.key(seed), 4))


class Measured(NamedTuple):
    """What was measured once and holds for every cell that trains alike."""

    cost_multiple: float
    execution: str

    @property
    def value(self) -> Execution:
        """The execution by its name."""
        return EXECUTIONS[self.execution]()


@dataclass
class SeedRun:
    """One cell on one seed, in its run folder."""

    cell: Cell
    seed: int
    root: Path
    resume: bool
    report: Report
    programs: Programs

    def result(self, chosen: SeedResult | None) -> SeedResult:
        """The stored result, or a new one; `chosen` has another cell's λ."""
        with open_run(self.root, self.cell, self.seed, resume=self.resume) as folder:
            if folder.result is not None:
                return read_result(folder.path, folder.result)
            compiled = self.programs.seconds
            space, searched = self.cell.space, None
            if self.cell.searcher is None:
                hparams, choices = space.defaults(), space.default_choices()
                if chosen is not None:
                    hparams |= _arrays(chosen.hparams)
                    choices |= {n: hashable(o) for n, o in chosen.choices.items()}
            else:
                searched = self._search(folder)
                coords = self._chosen(searched)
                hparams, choices = space.from_coords(coords), space.choices(coords)
            result = self._tested(hparams, choices, searched)
            seconds = self.programs.seconds - compiled
            result = result.model_copy(update={"seconds_compile": seconds})
            folder.log("metrics", _metrics(result))
            folder.finish(result.model_dump(mode="json"))
            return result

    @cached_property
    def _problem_of(self) -> Callable[[dict[str, Any]], hg.Problem]:
        """{name: option} -> the problem with these options, made once."""
        return once_per_choice(lambda c: self.cell.task_of(c).problem(self.seed))

    def _options(self, coords: jax.Array) -> dict[str, Any]:
        """What a trial's record says of its choices; nothing where there are none."""
        if not self.cell.choices:
            return {}
        options = self.cell.space.choices(coords)
        return {"choices": as_written(self.cell.choices, options)}

    def _search(self, folder: RunFolder) -> "Searched":
        """The study, in rounds of ask, evaluate, tell; resumable between any two."""
        cell, space, searcher = self.cell, self.cell.space, self.cell.searcher
        keys = Keys.of(self.seed)
        measured = self._measured(keys)
        folder.resolve("budget", measured._asdict())
        affordable = int(cell.budget.trainings / measured.cost_multiple)
        rounds = self._rounds(affordable)
        training_keys = study.TRAINING_KEYS[cell.budget.training_keys]()

        state = searcher.init(space, rounds * searcher.batch, keys.search)
        first = 0
        saved = folder.load((state, jnp.zeros((), int)))
        if saved is not None:
            state, first = saved[0], int(saved[1])
        # A kill may have left trials that no checkpoint knows of: they run again.
        records = folder.rewind("trials", first * searcher.batch)

        def ask(state):
            return searcher.ask(space, state)

        def train(problem, coords, key, trials):
            keys = training_keys.of(key, trials)
            estimator, execution = cell.estimator, measured.value
            return evaluate(problem, space, estimator, coords, keys, execution)

        def tell(state, coords, values, grads):
            return searcher.tell(space, state, coords, values, grads)

        # Without choices a round is one program; with, a few for each distinct choice.
        width = searcher.batch
        if space.has_choices:
            width = measured.value.width(searcher.batch)

        label = f"{cell.study} · {cell.title} · seed {self.seed}"
        elapsed = records[-1]["seconds"] if records else 0.0
        in_searcher = records[-1]["seconds_searcher"] if records else 0.0
        unsaved: list[dict[str, Any]] = []
        last_save = time.perf_counter()
        for i in range(first, rounds):
            run = self._program("ask", ask, state)
            (coords, state), spent = timed(run, state)
            trials = i * searcher.batch + jnp.arange(searcher.batch)
            trained = 0.0

            def run_rows(choices, rows, coords=coords, trials=trials):
                nonlocal trained
                problem = self._problem_of(choices)
                args = (problem, coords[rows], keys.train, trials[rows])
                # Searchers that train alike share the program of as many rows.
                name = ("train", cell.task_of(choices), space, cell.estimator)
                name += (measured.execution, cell.budget.training_keys)
                run = self.programs.get(name, train, *args)
                found, spent = timed(run, *args)
                trained += spent
                return found

            values, grads, doubtful = map_by_choice(run_rows, space, coords, width)
            args = (state, coords, values, grads)
            run = self._program("tell", tell, *args)
            state, told = timed(run, *args)

            in_searcher += spent + told
            elapsed += spent + trained + told
            for row in range(searcher.batch):
                norm = None if grads is None else float(jnp.linalg.norm(grads[row]))
                unsaved.append(
                    {
                        "trial": int(trials[row]),
                        "value": float(values[row]),
                        "diverged": not math.isfinite(values[row]),
                        "gradient_norm": norm,
                        "doubtful": bool(doubtful[row]),
                        "cost": float(measured.cost_multiple * (trials[row] + 1)),
                        "seconds": elapsed,
                        "seconds_searcher": in_searcher,
                        "coords": np.asarray(coords[row], float).tolist(),
                    }
                    | self._options(coords[row])
                )
            if time.perf_counter() - last_save > SAVE_EVERY or i + 1 == rounds:
                folder.log("trials", *unsaved)
                folder.save((state, jnp.asarray(i + 1)))
                records, unsaved = records + unsaved, []
                last_save = time.perf_counter()
            self.report(label, (i + 1) * searcher.batch, rounds * searcher.batch)
        return Searched(records)

    def _program(self, name: str, fn: Callable, *args) -> Callable:
        """`fn` compiled, unless the searcher lives on the host."""
        if self.cell.searcher.on_host:
            return fn
        return self.programs.get((name, self.cell.hash), fn, *args)

    def _rounds(self, affordable: int) -> int:
        try:
            return study.num_rounds(self.cell.searcher, self.cell.space, affordable)
        except ValueError as error:
            message = f"of {self.cell.title!r} pays for no round: {error}"
            where = (self.cell.name, ("budget", "trainings"))
            raise ConfigError([Fault(*where, message)]) from error

    def _chosen(self, searched: "Searched") -> jax.Array:
        """The coords of the finalist with the least mean F over keys of its own."""
        budget = self.cell.budget
        finalists = searched.finalists(budget.finalists)
        if len(finalists) == 1:
            return finalists[0]
        space = self.cell.space
        # All finalists see the same keys.
        keys = jax.random.split(Keys.of(self.seed).select, budget.retrain)

        def mean_value(coords: jax.Array) -> float:
            hparams, choices = space.from_coords(coords), space.choices(coords)
            (objective, _), _ = self._retrained(hparams, choices, keys)
            return float(jnp.mean(objective))

        values = np.array([mean_value(coords) for coords in finalists])
        return finalists[study.best_index(values)]

    def _retrained(self, hparams: dict, choices: dict[str, Any], keys: jax.Array):
        """((F, the state after training) of each key, the seconds it took)."""
        args = (self._problem_of(choices), jax.tree.map(jnp.asarray, hparams), keys)
        name = ("retrain", self.cell.task_of(choices), len(keys))
        return timed(self.programs.get(name, _retrain, *args), *args)

    def _tested(
        self, hparams: dict, choices: dict[str, Any], searched: "Searched | None"
    ) -> SeedResult:
        """λ trained again with fresh keys, and what its schedules look like."""
        cell, task = self.cell, self.cell.task_of(choices)
        keys = jax.random.split(Keys.of(self.seed).retrain, cell.budget.retrain)
        (objective, states), seconds = self._retrained(hparams, choices, keys)

        def scores(metrics):
            values = jax.vmap(lambda s: metrics(s, hparams)[task.metric])(states)
            return np.asarray(values, float).tolist()

        history = {}
        if searched is not None:
            history = {
                "values": searched.column("value"),
                "doubtful": sum(searched.column("doubtful")),
                "cost": searched.column("cost"),
                "seconds": searched.column("seconds"),
                "seconds_searcher": searched.records[-1]["seconds_searcher"],
                "trajectories": searched.trajectories(cell.space),
            }
            seconds += history["seconds"][-1] - history["seconds_searcher"]
        return SeedResult(
            seed=self.seed,
            objective=np.asarray(objective, float).tolist(),
            validation=scores(task.validation(self.seed)),
            test=scores(task.test(self.seed)),
            seconds_training=seconds,
            hparams=_lists(hparams),
            choices=as_written(cell.choices, choices),
            schedules=_lists(task.schedules(hparams)),
            distributions={
                title: _lists(groups)
                for title, groups in task.distributions(self.seed, hparams).items()
            },
            pictures=_lists(task.pictures(self.seed, hparams)),
            **history,
        )

    def _measured(self, keys: Keys) -> Measured:
        """Cost multiple and execution: from the config, an earlier run, or now."""
        cell, budget, space = self.cell, self.cell.budget, self.cell.space
        problem = self._problem_of(space.default_choices())

        def multiple() -> float:
            defaults = space.defaults()
            return hg.cost_multiple(problem, cell.estimator, defaults, keys.train)

        def execution() -> str:
            args = (problem, space, cell.estimator, keys.train, cell.searcher.batch)
            return type(hg.choose_execution(*args)).__name__.lower()

        def once(what: str, measure):
            self.report(f"{cell.study} · {cell.title} · measuring its {what}", 0, 1)
            key = f"{what}, {cell.training}"
            value = measured_once(self.root, cell.name, key, measure)
            self.report(f"{cell.study} · {cell.title} · measuring its {what}", 1, 1)
            return value

        cost = budget.cost_multiple if cell.searcher.needs_gradient else 1.0
        if cost == "measure":
            cost = once("cost", multiple)
        layout = budget.execution
        if layout == "auto":
            layout = once(f"execution by {cell.searcher.batch}", execution)
        if not isinstance(cost, int | float) or layout not in EXECUTIONS:
            raise StoreError(
                f"{self.root / cell.name / 'measured.json'} is damaged: cost {cost!r}, "
                f"execution {layout!r}; delete it, and run without --resume"
            )
        return Measured(cost, layout)


@dataclass(frozen=True)
class Searched:
    """The records of a finished study."""

    records: list[dict[str, Any]]

    def column(self, name: str) -> list:
        """One field of all trials."""
        return [record[name] for record in self.records]

    def finalists(self, count: int) -> jax.Array:
        """Coordinates of the best trials, best first: [count, d]."""
        order = study.ranking(np.array(self.column("value")))
        return jnp.asarray([self.records[i]["coords"] for i in order[:count]])

    def trajectories(self, space: hg.Space) -> dict[str, list[float]]:
        """Each coordinate of λ of the best trial so far, where there are few."""
        names = np.array(space.names)[~space.is_choice]
        if space.dim > 20 or not space.continuous:
            return {}
        values = np.array(self.column("value"))
        best = [study.best_index(values[: i + 1]) for i in range(len(values))]
        coords = jnp.asarray(self.column("coords"))[np.array(best)]
        hparams = jax.vmap(space.from_coords)(coords)
        columns = [
            np.asarray(hparams[name]).reshape(len(best), -1)
            for name in space.continuous
        ]
        table = np.concatenate(columns, axis=1)
        return {str(name): table[:, i].tolist() for i, name in enumerate(names)}


def _retrain(problem, hparams, keys):
    """(F, the state after training) of each key."""

    def one(key):
        result, _ = hg.Value().estimate(problem, hparams, (), key)
        return result.value, result.info.state

    return jax.lax.map(one, keys)


def _metrics(result: SeedResult) -> dict[str, Any]:
    fields = ("objective", "validation", "test", "seconds_training", "seconds_searcher")
    return {name: getattr(result, name) for name in fields}


def _arrays(hparams: dict[str, Any]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, float) for name, value in hparams.items()}


def _lists(arrays) -> dict[str, Any]:
    return {name: np.asarray(value, float).tolist() for name, value in arrays.items()}
