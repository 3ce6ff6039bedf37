"""One cell on one seed: the search, the choice of λ, the test with fresh keys."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hypergrad as hg
from experiments.configs.cells import Cell
from experiments.configs.choices import as_written
from experiments.runs.chosen import Chosen
from experiments.runs.gather import stored
from experiments.configs.faults import ConfigError, Fault
from experiments.storage.files import DamagedError
from experiments.storage.journal import Journal
from experiments.runs.partial_run import PartialRun
from experiments.runs.programs import Programs, timed
from experiments.progress import Report
from experiments.results import SeedResult
from experiments.runs.searched import Searched
from experiments.storage.store import RunFolder, measured_once, open_run
from hypergrad import study
from hypergrad.by_choice import map_by_choice, once_per_choice
from hypergrad.runner import EXECUTIONS, Execution, evaluate
from hypergrad.searchers.partial import PartialSearch
from hypergrad.stretches import Stretches
from hypergrad.training_keys import TRAINING_KEYS


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
            done = stored(self.root, self.cell, self.seed)
            if done is not None:
                return done
            compiled = self.programs.seconds
            searched = None
            if self.cell.searcher is None:
                tested = Chosen.given(self.cell.space, chosen)
            else:
                searched = self._search(folder)
                tested = self._chosen(searched)
            result = self._tested(tested, searched)
            seconds = self.programs.seconds - compiled
            result = result.model_copy(update={"seconds_compile": seconds})
            folder.log("metrics", _metrics(result))
            folder.finish(result.model_dump(mode="json"))
            return result

    def prepare(self) -> None:
        """Measure what is measured once, and see that the budget pays for a round."""
        cost = self._measured(Keys.of(self.seed)).cost_multiple
        if not isinstance(self.cell.searcher, PartialSearch):
            self._rounds(cost)

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

    def _search(self, folder: RunFolder) -> Searched:
        """The study, in rounds of ask, evaluate, tell; resumable between any two."""
        cell, space, searcher = self.cell, self.cell.space, self.cell.searcher
        keys = Keys.of(self.seed)
        measured = self._measured(keys)
        folder.resolve("budget", measured._asdict())
        label = f"{cell.study} · {cell.title} · seed {self.seed}"
        if isinstance(searcher, PartialSearch):
            stretches = Stretches(
                self._problem_of,
                space,
                keys.train,
                measured.value,
                TRAINING_KEYS[cell.budget.training_keys](),
            )
            run = PartialRun(searcher, stretches, self.programs, self._options)
            trainings = cell.budget.trainings
            return run.search(folder, trainings, keys.search, label, self.report)
        rounds = self._rounds(measured.cost_multiple)
        training_keys = TRAINING_KEYS[cell.budget.training_keys]()

        state = searcher.init(space, rounds * searcher.batch, keys.search)
        like = state, jnp.zeros((), int)
        journal, (state, done) = Journal.resume(
            folder, like, count=lambda saved: int(saved[1]) * searcher.batch
        )

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

        elapsed, in_searcher = journal.elapsed, journal.in_searcher
        for i in range(int(done), rounds):
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
            records = []
            for row in range(searcher.batch):
                norm = None if grads is None else float(jnp.linalg.norm(grads[row]))
                records.append(
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
            journal.add(records, (state, jnp.asarray(i + 1)), last=i + 1 == rounds)
            self.report(label, (i + 1) * searcher.batch, rounds * searcher.batch)
        return Searched(journal.records)

    def _program(self, name: str, fn: Callable, *args) -> Callable:
        """`fn` compiled, unless the searcher lives on the host."""
        if self.cell.searcher.on_host:
            return fn
        return self.programs.get((name, self.cell.hash), fn, *args)

    def _rounds(self, cost: float) -> int:
        """Rounds that the budget pays for, at `cost` trainings a trial."""
        cell, batch = self.cell, self.cell.searcher.batch
        # Rounding takes no trial away: 33 / 1.1 is a little less than 30.
        affordable = math.floor(cell.budget.trainings / cost * (1 + 1e-9))
        if affordable < batch:
            least = math.ceil(batch * cost * (1 - 1e-9))
            message = (
                f"pays for {affordable} trials of {cell.title!r} at {cost:g} trainings "
                f"each; one round takes {batch} of them: give at least {least}"
            )
            if batch > 1:
                message += ", or lower the searcher's batch (starts)"
            raise ConfigError([Fault(cell.name, ("budget", "trainings"), message)])
        return study.num_rounds(cell.searcher, cell.space, affordable)

    def _chosen(self, searched: Searched) -> Chosen:
        """The finalist with the least mean F over keys of its own."""
        space, budget = self.cell.space, self.cell.budget
        finalists = [
            Chosen.of(space, found) for found in searched.finalists(budget.finalists)
        ]
        if len(finalists) == 1:
            return finalists[0]
        # All finalists see the same keys.
        keys = jax.random.split(Keys.of(self.seed).select, budget.retrain)
        values = [
            float(jnp.mean(self._retrained(finalist, keys)[0][0]))
            for finalist in finalists
        ]
        return finalists[study.best_index(np.array(values))]

    def _retrained(self, chosen: Chosen, keys: jax.Array):
        """((F, the state after training) of each key, the seconds it took)."""
        fn, args = chosen.training
        args = self._problem_of(chosen.choices), *args, keys
        name = (fn.__name__, self.cell.task_of(chosen.choices), len(keys))
        return timed(self.programs.get(name, fn, *args), *args)

    def _tested(self, chosen: Chosen, searched: Searched | None) -> SeedResult:
        """λ trained again with fresh keys, and what its schedules look like."""
        cell, hparams = self.cell, chosen.hparams
        task = cell.task_of(chosen.choices)
        keys = jax.random.split(Keys.of(self.seed).retrain, cell.budget.retrain)
        (objective, states), seconds = self._retrained(chosen, keys)

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
                "tried": searched.tried(cell.space),
                "trajectories": searched.trajectories(cell.space),
            }
            if searched.in_stretches:
                history["num_steps"] = searched.num_steps
                history["steps"] = searched.column("steps")
                history["parents"] = searched.column("parent")
            seconds += history["seconds"][-1] - history["seconds_searcher"]
        return SeedResult(
            seed=self.seed,
            objective=np.asarray(objective, float).tolist(),
            validation=scores(task.validation(self.seed)),
            test=scores(task.test(self.seed)),
            seconds_training=seconds,
            hparams=_lists(hparams),
            choices=as_written(cell.choices, chosen.choices),
            schedules=_lists(chosen.schedules(task)),
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
        options = space.default_choices()

        def multiple() -> float:
            args = (self._problem_of(options), cell.estimator, space.defaults())
            return hg.cost_multiple(*args, keys.train)

        def execution() -> str:
            problem = self._problem_of(options)
            args = (problem, space, cell.estimator, keys.train, cell.searcher.batch)
            return type(hg.choose_execution(*args)).__name__.lower()

        def once(what: str, measure):
            label = f"{cell.study} · {cell.title} · measuring its {what}"

            def now():
                self.report(label, 0, 1)
                value = measure()
                self.report(label, 1, 1)
                return value

            key = f"{what}, {cell.training}"
            return measured_once(self.root, cell.name, key, now)

        cost = budget.cost_multiple if cell.searcher.needs_gradient else 1.0
        if cost == "measure":
            cost = once("cost", multiple)
        layout = budget.execution
        if layout == "auto":
            layout = once(f"execution by {cell.searcher.batch}", execution)
        if not isinstance(cost, int | float) or layout not in EXECUTIONS:
            path = self.root / cell.name / "measured.json"
            found = f"cost {cost!r}, execution {layout!r}"
            raise DamagedError(f"{path} is damaged: {found}")
        return Measured(cost, layout)


def _metrics(result: SeedResult) -> dict[str, Any]:
    fields = ("objective", "validation", "test", "seconds_training", "seconds_searcher")
    return {name: getattr(result, name) for name in fields}


def _lists(arrays) -> dict[str, Any]:
    return {name: np.asarray(value, float).tolist() for name, value in arrays.items()}
