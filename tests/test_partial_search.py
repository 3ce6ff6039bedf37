"""Searches in stretches of training, against the textbook and a slow simulator."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from hypergrad import checkpoints
from hypergrad.api import estimate
from hypergrad.execution import Chunk, Loop, Vmap
from hypergrad.partial import lineage, train_lineage
from hypergrad.searchers.base import start
from hypergrad.searchers.halving import ASHA, Hyperband, SuccessiveHalving
from hypergrad.searchers.partial import rungs
from hypergrad.searchers.population import PopulationBasedTraining
from hypergrad.stretches import Bank, Stretches, search_in_stretches
from tests.searching import SPACE, cube

SEARCHERS = [
    SuccessiveHalving(num=9, num_rungs=3),
    SuccessiveHalving(eta=2, num=10, num_rungs=4),
    Hyperband(num_rungs=3),
    ASHA(num_rungs=3, workers=4),
    ASHA(eta=2, num_rungs=4, workers=3),
    PopulationBasedTraining(population=5, num_rounds=4, truncation=0.4),
]


started = jax.jit(start, static_argnums=0)
compiled = jax.jit(lambda program, *args: program(*args), static_argnums=0)
DEFAULT = np.asarray(SPACE.to_coords(SPACE.defaults()))


def bowl(coords, steps):
    """A learning curve whose floor is a quadratic."""
    return np.sum((coords - 0.3) ** 2, axis=1) + 1 / steps


def often_diverging(coords, steps):
    """`bowl`, but what is far out has gone in one of four ways."""
    kind = np.floor(40 * coords[:, 0]).astype(int) % 8
    ways = np.array([np.nan, np.inf, -np.inf])
    return np.where(kind < 3, ways[np.minimum(kind, 2)], bowl(coords, steps))


def asks(searcher, space, num_trials, num_steps, curve, key, between=lambda s: s):
    """(the last state, the trials of each ask)."""
    state, rounds = searcher.init(space, num_trials, key, num_steps), []
    while True:
        coords, state = searcher.ask(space, between(state))
        if len(coords) == 0:
            return state, rounds
        rounds.append(state.waiting)
        np.testing.assert_array_equal(coords, state.jobs.coords[state.waiting])
        values = curve(np.asarray(coords), state.jobs.steps[state.waiting])
        state = searcher.tell(space, state, coords, jnp.asarray(values))


def test_hyperband_has_the_textbook_table(key):
    """Li et al. (2018), table 1: (n_i, r_i) for R = 81 and η = 3."""
    table = [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    cost = 0
    for row in table:
        stops = [0, *(r for _, r in row)]
        cost += int(np.dot([n for n, _ in row], np.diff(stops)))
    searcher = Hyperband(eta=3, num_rungs=5)
    num_trials = -(-cost // 81)
    state, rounds = asks(searcher, cube(2), num_trials, 81, bowl, key)
    got = [(len(r), int(state.steps[r[0]])) for r in rounds]
    expected = [pair for row in table for pair in row]
    assert got[: len(expected)] == expected


def test_successive_halving_promotes_the_best_third_of_each_rung(key):
    state, rounds = asks(SuccessiveHalving(num=27), cube(2), 10, 54, bowl, key)
    jobs, values = state.jobs, state.values
    assert [len(r) for r in rounds[:4]] == [27, 9, 3, 1]
    assert [int(jobs.steps[r[0]]) for r in rounds[:4]] == [2, 6, 18, 54]
    for below, above in itertools.pairwise(rounds[:4]):
        best = sorted(below, key=lambda trial: values[trial])[: len(below) // 3]
        assert list(jobs.parents[above]) == best
        np.testing.assert_array_equal(jobs.coords[above], jobs.coords[best])
    assert len(rounds[4]) == 27  # Another bracket, with points of its own.
    assert len(np.unique(jobs.coords[jobs.parents < 0], axis=0)) == np.sum(
        jobs.parents < 0
    )


@pytest.mark.parametrize("searcher", SEARCHERS, ids=str)
@pytest.mark.parametrize("num_steps", [2, 20])
def test_budgets_are_kept_and_starts_are_everyones(searcher, num_steps, key):
    low, high = map(np.asarray, SPACE.bounds())
    for num_trials in (1, 4, 11):
        state, _ = asks(searcher, SPACE, num_trials, num_steps, curve_of_norm, key)
        jobs = state.jobs
        assert np.all((jobs.steps >= 1) & (jobs.steps <= num_steps))
        assert np.all(jobs.steps > jobs.firsts)
        spent = np.sum(jobs.steps - jobs.firsts)
        # Less than one training is left over: of a population or a bracket, none fits.
        assert (num_trials - 1) * num_steps < spent <= num_trials * num_steps
        begun = jobs.coords[jobs.parents < 0]
        assert np.all((low - 1e-12 <= jobs.coords) & (jobs.coords <= high + 1e-12))
        np.testing.assert_allclose(begun[0], DEFAULT)
        for i, coords in list(enumerate(begun))[1:3]:
            np.testing.assert_allclose(coords, started(SPACE, key, i))
        if not isinstance(searcher, ASHA):
            assert jobs.steps.max() == num_steps


def curve_of_norm(coords, steps):
    return np.linalg.norm(coords, axis=1) + 1 / steps


@pytest.mark.parametrize("searcher", SEARCHERS, ids=str)
def test_what_has_diverged_is_never_gone_on_with(searcher, key):
    state, _ = asks(searcher, cube(1, default=0.9), 40, 27, often_diverging, key)
    parents = state.jobs.parents
    assert np.isfinite(state.values[parents[parents >= 0]]).all()
    assert not np.isfinite(state.values[: len(parents)]).all()


def test_a_bracket_or_population_that_diverges_whole_makes_room_for_the_next(key):
    searchers = (SuccessiveHalving(num=4), PopulationBasedTraining(population=4))
    for searcher in searchers:
        state, rounds = asks(
            searcher, cube(1), 6, 30, lambda z, steps: np.full(len(z), np.nan), key
        )
        assert np.all(state.jobs.parents < 0)
        assert len(rounds) > 6


@pytest.mark.parametrize("searcher", SEARCHERS, ids=str)
def test_a_log_cut_anywhere_goes_on_identically(searcher, key, tmp_path):
    """Every ask sees a state that has been to a file and back."""

    def through_a_file(state):
        checkpoints.save(tmp_path / "log.npz", state)
        like = searcher.init(SPACE, 6, key, 20)
        return checkpoints.read(tmp_path / "log.npz", like)

    arguments = searcher, SPACE, 6, 20, curve_of_norm, key
    whole, rounds = asks(*arguments)
    resumed, again = asks(*arguments, between=through_a_file)
    assert [len(r) for r in rounds] == [len(r) for r in again]
    for a, b in zip(whole[:-1], resumed[:-1], strict=True):
        np.testing.assert_array_equal(a, b)


class Simulator:
    """ASHA by a clock that ticks once a step: algorithm 2 of Li et al. (2020)."""

    def __init__(self, workers, eta, stops, space, key):
        self.busy: list = [None] * workers  # (trial, ticks left)
        self.eta, self.stops, self.space, self.key = eta, stops, space, key
        self.log = []  # (coords, parent, steps)
        self.results = {stop: {} for stop in stops}  # stop -> trial -> value
        self.promoted = set()
        self.begun = 0

    def job(self):
        for k in range(len(self.stops) - 2, -1, -1):
            rung = self.results[self.stops[k]]
            order = sorted(rung, key=lambda trial: (rung[trial], trial))
            top = order[: len(rung) // self.eta]
            for trial in top:
                if np.isfinite(rung[trial]) and trial not in self.promoted:
                    self.promoted.add(trial)
                    return self.log[trial][0], trial, self.stops[k + 1], self.stops[k]
        coords = np.asarray(started(self.space, self.key, self.begun))
        self.begun += 1
        return coords, -1, self.stops[0], 0

    def run(self, count, curve):
        while len(self.log) < count:
            for w, work in enumerate(self.busy):
                if work is None:
                    coords, parent, stop, first = self.job()
                    self.log.append((coords, parent, stop))
                    self.busy[w] = [len(self.log) - 1, stop - first]
            for work in self.busy:
                work[1] -= 1
            for w, (trial, ticks) in enumerate(self.busy):
                if ticks == 0:
                    coords, _, stop = self.log[trial]
                    value = curve(coords[None], np.array([stop]))[0]
                    self.results[stop][trial] = value
                    self.busy[w] = None
        return self.log[:count]


@pytest.mark.parametrize("workers", [1, 3, 4])
@pytest.mark.parametrize("eta", [2, 3])
@pytest.mark.parametrize("curve", [bowl, often_diverging])
def test_asha_is_the_simulators(workers, eta, curve, key):
    def positive(coords, steps):  # −∞ would be the simulator's best
        return np.abs(curve(coords, steps))

    space, num_steps = cube(2, default=0.9), 27
    searcher = ASHA(eta=eta, num_rungs=4, workers=workers)
    state, _ = asks(searcher, space, 9, num_steps, positive, key)
    stops = searcher.boundaries(num_steps)
    jobs = state.jobs
    expected = Simulator(workers, eta, stops, space, key).run(len(jobs.steps), positive)
    assert jobs.parents.tolist() == [parent for _, parent, _ in expected]
    assert jobs.steps.tolist() == [steps for *_, steps in expected]
    np.testing.assert_array_equal(jobs.coords, [coords for coords, *_ in expected])
    assert num_steps in jobs.steps


def test_a_population_truncates_copies_and_explores(key):
    space = hg.Space(
        {"x": hg.Linear(0.0, 1.0, shape=(2,)), "kind": hg.Choice(("a", "b", "c"))}
    )
    searcher = PopulationBasedTraining(population=8, num_rounds=3, truncation=0.25)
    state, rounds = asks(
        searcher, space, 8, 30, lambda z, steps: often_diverging(z[:, :2], steps), key
    )
    jobs, values = state.jobs, state.values
    assert [len(r) for r in rounds] == [8, 8, 8]
    moved = 0
    for below, above in itertools.pairwise(rounds):
        finite = [t for t in below if np.isfinite(values[t])]
        finite.sort(key=lambda trial: values[trial])
        assert 2 < len(finite) < 8  # the case has both kinds
        survivors = finite[:6]
        for member, trial in zip(below, above, strict=True):
            parent = jobs.parents[trial]
            if member in survivors:
                assert parent == member
                np.testing.assert_array_equal(jobs.coords[trial], jobs.coords[member])
            else:
                moved += 1
                assert parent in finite[:2]
                assert np.all(jobs.coords[trial][:2] != jobs.coords[parent][:2])
            assert jobs.coords[trial][2] == jobs.coords[parent][2]  # its choice
    assert moved >= 4


def test_rungs_of_a_short_training_are_fewer():
    assert rungs(400, 3, 4) == (15, 44, 133, 400)
    assert rungs(4, 3, 4) == (1, 4)
    assert rungs(1, 3, 4) == (1,)


def noisy(num_steps=9, outer_every=None):
    """Noisy descent with momentum: the key matters, the step, and all of the state."""

    def of_key(tick):  # jax.random takes longer to compile than all the rest
        return jax.random.key_data(tick.key)[-1] % 1000.0

    def step(hp, state, tick):
        w, velocity = state
        noise = jnp.sin(of_key(tick) + tick.t)
        velocity = 0.9 * velocity - hp["lr"] * (w - 1.0 + hp["decay"] * w + noise)
        return w + velocity, velocity

    return hg.Problem.from_step(
        start=lambda hp, tick: (jnp.cos(of_key(tick)), jnp.zeros(())),
        step=step,
        outer_at=lambda hp, state, tick: (state[0] - 1.0) ** 2,
        num_steps=num_steps,
        outer_every=outer_every,
    )


NOISY = hg.Space(
    {"lr": hg.Log(1e-3, 0.1, default=0.02), "decay": hg.Log(1e-4, 1.0, default=0.01)}
)


@pytest.mark.parametrize("outer_every", [None, 3])
def test_training_in_stretches_equals_training_at_once(outer_every, key):
    problem = noisy(outer_every=outer_every)
    for searcher in (
        SuccessiveHalving(num=3, num_rungs=2),
        PopulationBasedTraining(population=3, num_rounds=3, truncation=0.4),
    ):
        study = hg.search(
            problem,
            NOISY,
            searcher,
            num_trials=6,
            key=key,
            training_keys=hg.FreshKeys(),
        )
        trials = study.trials
        assert trials.fidelities[study.best] == 1
        train_key = jax.random.split(key)[1]
        root = study.best
        while trials.parents[root] >= 0:
            root = int(trials.parents[root])
        own = hg.FreshKeys().of(train_key, jnp.array([root]))[0]
        chain = lineage(trials, study.best)
        stages = jax.vmap(NOISY.from_coords)(jnp.asarray(chain.coords))
        value, _ = train_lineage(problem, stages, jnp.asarray(chain.ends), own)
        np.testing.assert_allclose(study.best_value, value, rtol=1e-10)
        whole, _ = estimate(problem, hg.Value(), study.best_hparams, (), own)
        if isinstance(searcher, SuccessiveHalving):
            assert len(chain.ends) == 1
            np.testing.assert_allclose(study.best_value, whole.value, rtol=1e-10)


def test_a_lineage_is_more_than_its_last_hparams(key):
    """With s = Π λ_t, what each stretch contributes can be read off."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: s * hp["x"],
        outer_at=lambda hp, s, tick: s,
        num_steps=6,
    )
    space = hg.Space({"x": hg.Linear(0.1, 1.0, default=0.5)})
    searcher = PopulationBasedTraining(population=4, num_rounds=3)
    study = hg.search(problem, space, searcher, num_trials=4, key=key)
    lineages = [lineage(study.trials, trial) for trial in range(8, 12)]
    assert {len(chain.ends) for chain in lineages} == {1, 3}
    for trial, (coords, ends) in enumerate(lineages, start=8):
        lengths = np.diff(ends, prepend=0)
        expected = np.prod(np.asarray(coords)[:, 0] ** lengths)
        np.testing.assert_allclose(study.trials.values[trial], expected, rtol=1e-6)


@pytest.mark.slow
def test_neither_the_layout_nor_the_memory_changes_a_number(key):
    problem = noisy()
    searcher = SuccessiveHalving(num=4, eta=2, num_rungs=2)
    expected, layouts = None, {}

    def call(program, *args):
        widths.add((program, len(args[1])))
        return compiled(program, *args)

    for execution, bank in (
        (Loop(), Bank()),
        (Loop(), Bank(max_bytes=0)),
        (Vmap(), Bank()),
        (Vmap(), Bank(max_bytes=0)),
        (Chunk(3), Bank()),
    ):
        widths = set()
        arguments = lambda _: problem, NOISY, key, execution
        stretches = Stretches(*arguments, kept=bank, call=call)
        log = search_in_stretches(stretches, searcher, 3, key)
        assert (len(bank.progress) == 0) == (bank.max_bytes == 0)
        if expected is None:
            expected = log
        np.testing.assert_array_equal(log.parents, expected.parents)
        np.testing.assert_allclose(log.values, expected.values, rtol=1e-10)
        # What is done again for want of room is laid out as it was the first time.
        same_values, same_widths = layouts.setdefault(execution, (log.values, widths))
        np.testing.assert_array_equal(log.values, same_values)
        assert widths == same_widths


def test_equally_long_stretches_are_one_program(key):
    problem, programs = noisy(), set()

    def call(program, *args):
        programs.add((program, len(args[1])))
        return compiled(program, *args)

    searcher = PopulationBasedTraining(population=3, num_rounds=3)
    stretches = Stretches(lambda _: problem, NOISY, key, call=call)
    search_in_stretches(stretches, searcher, 3, key)
    assert len(programs) == 2  # begin, and three steps from wherever


def test_choices_are_trained_by_their_own_problem(key):
    space = hg.Space(
        {"lr": hg.Log(1e-3, 0.1, default=0.02), "momentum": hg.Choice((0.0, 0.9))}
    )

    def problem(choices):
        return hg.Problem.from_step(
            start=lambda hp, tick: jnp.zeros(2),
            step=lambda hp, s, tick: jnp.stack(
                [s[0] + hp["lr"] * s[1], choices["momentum"] * s[1] + 1.0]
            ),
            outer_at=lambda hp, s, tick: s[0],
            num_steps=9,
        )

    searcher = PopulationBasedTraining(population=4, num_rounds=3)
    study = hg.search(problem, space, searcher, num_trials=4, key=key)
    for trial in range(8, 12):
        chain = lineage(study.trials, trial)
        momentum = space.choices(chain.coords[0])["momentum"]
        assert len({float(z) for z in chain.coords[:, 1]}) == 1
        position, velocity = 0.0, 0.0
        ends = [0, *np.asarray(chain.ends)]
        for z, (first, end) in zip(chain.coords, itertools.pairwise(ends), strict=True):
            for _ in range(first, end):
                lr = float(space.from_coords(z)["lr"])
                position, velocity = (
                    position + lr * velocity,
                    momentum * velocity + 1.0,
                )
        np.testing.assert_allclose(study.trials.values[trial], position, rtol=1e-6)


def test_the_best_is_looked_for_among_whole_trainings(key):
    """F rises while it trains, so that the least F is always of a short training."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=lambda hp, s, tick: s + 1.0,
        outer_at=lambda hp, s, tick: s + hp["x"],
        num_steps=9,
    )
    space = hg.Space({"x": hg.Linear(0.0, 1.0)})
    searcher = SuccessiveHalving(num=9, num_rungs=3)
    study = hg.search(problem, space, searcher, num_trials=6, key=key)
    whole = np.flatnonzero(study.trials.steps == 9)
    assert study.best == whole[np.argmin(study.trials.values[whole])]
    assert 9 <= study.best_value <= 10
    assert np.isinf(study.best_so_far[0])
    assert study.best_so_far[-1] == study.best_value

    poor = hg.search(problem, space, ASHA(num_rungs=3), num_trials=1, key=key)
    assert poor.trials.steps.max() == poor.trials.steps[poor.best] < 9

    plain = hg.search(problem, space, hg.RandomSearch(), num_trials=3, key=key)
    assert set(plain.trials.steps.tolist()) == {9}
    assert set(plain.trials.parents.tolist()) == {-1}
    assert set(plain.trials.fidelities.tolist()) == {1.0}


def test_what_cannot_be_is_refused(key):
    for make, message in (
        (lambda: SuccessiveHalving(num=0), "num must be a whole number"),
        (lambda: SuccessiveHalving(eta=1), "eta must be a whole number of at least 2"),
        (lambda: Hyperband(num_rungs=0), "num_rungs must be"),
        (lambda: ASHA(workers=0), "workers must be"),
        (lambda: PopulationBasedTraining(truncation=0.6), "truncation must be in"),
        (lambda: PopulationBasedTraining(perturbation=0.0), "perturbation must be"),
        (lambda: PopulationBasedTraining(resampling=1.5), "resampling must be"),
        (lambda: ASHA().init(SPACE, 3, key), "num_steps must be"),
        (lambda: ASHA().init(SPACE, 0, key, 3), "num_trials must be"),
    ):
        with pytest.raises(ValueError, match=message):
            make()

    arguments = {"num_trials": 3, "key": key}
    with pytest.raises(ValueError, match="leave out estimator"):
        hg.search(noisy(), NOISY, ASHA(), estimator=hg.Reverse(), **arguments)
    with pytest.raises(ValueError, match=r"outer_every \(3\) must not exceed"):
        hg.search(noisy(outer_every=3), NOISY, ASHA(), **arguments)
    space = hg.Space({"lr": hg.Log(1e-3, 0.1), "length": hg.Choice((9, 12))})

    def longer(choices):
        return hg.Problem.from_step(
            start=lambda hp, tick: jnp.zeros(()),
            step=lambda hp, s, tick: s,
            outer_at=lambda hp, s, tick: s,
            num_steps=choices["length"],
        )

    with pytest.raises(ValueError, match="one num_steps for all choices"):
        hg.search(longer, space, SuccessiveHalving(), **arguments)

    state = ASHA().init(SPACE, 3, key, 9)
    coords, state = ASHA().ask(SPACE, state)
    with pytest.raises(ValueError, match="that were asked for; got 1"):
        ASHA().tell(SPACE, state, coords, jnp.ones(1))


def test_if_every_whole_training_diverged_no_shorter_one_is_the_best(key):
    """F of a short training is of another function; finite here."""
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.zeros(()),
        step=lambda hp, s, tick: s + 1.0,
        outer_at=lambda hp, s, tick: jnp.where(s > 20, jnp.inf, s + hp["x"]),
        num_steps=27,
    )
    space = hg.Space({"x": hg.Linear(0.0, 1.0)})
    searcher = SuccessiveHalving(num=9, num_rungs=3)
    study = hg.search(problem, space, searcher, num_trials=3, key=key)
    assert int(study.trials.steps[study.best]) == 27
    assert study.best_value == study.best_so_far[-1] == np.inf
