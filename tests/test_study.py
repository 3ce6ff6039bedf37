"""Studies: one compiled program, whatever the searcher and the layout."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hypergrad as hg
from hypergrad import runner, study
from tests.problems import relative, ridge

SPACE = hg.Space(
    {
        "lr": hg.Log(1e-3, 0.5, default=0.01),
        "l2": hg.Log(1e-4, 1.0, shape=(4,)),
    }
)


def run(searcher, num_trials=24, **changes):
    arguments = {"num_trials": num_trials, "key": jax.random.key(1)}
    if searcher.needs_gradient:
        arguments["estimator"] = hg.Reverse()
    return hg.search(ridge(30), SPACE, searcher, **(arguments | changes))


@pytest.mark.parametrize(
    "searcher",
    [
        hg.RandomSearch(batch=3),
        hg.SobolSearch(),
        hg.GridSearch(ties={"rate": ("lr",), "decay": ("l2",)}),
        hg.BayesianSearch(),
        hg.GradientSearch(starts=2),
    ],
    ids=lambda searcher: type(searcher).__name__,
)
def test_every_searcher_improves_on_the_default(searcher):
    result = run(searcher)
    default = SPACE.to_coords(SPACE.defaults())
    np.testing.assert_allclose(result.trials.coords[0], default)
    assert len(result.trials.values) % searcher.batch == 0
    assert result.best_value < 0.95 * result.trials.values[0]
    assert result.best_value == result.best_so_far[-1] == result.trials.values.min()
    SPACE.check(result.best_hparams)
    value = hg.unroll(ridge(30), result.best_hparams, study_key(0))[0]
    np.testing.assert_allclose(value, result.best_value, rtol=1e-9)


def study_key(i, key=None):
    """The key that trial i trains with."""
    _, train_key = jax.random.split(jax.random.key(1) if key is None else key)
    return jax.random.fold_in(train_key, i)


def test_gradients_beat_random_in_many_dimensions():
    """F = ‖x − c‖² in 30 dimensions, at ten times the trials for random search."""
    goal = jnp.linspace(0.1, 0.9, 30)
    problem = hg.Problem.from_step(
        start=lambda hp, tick: hp["x"],
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: jnp.sum((s - goal) ** 2),
        num_steps=1,
    )
    space, key = hg.Space({"x": hg.Linear(0.0, 1.0, shape=(30,))}), jax.random.key(1)
    descent = hg.GradientSearch(hg.Outer("adam", learning_rate=0.1), starts=1)
    gradient = hg.search(
        problem, space, descent, estimator=hg.Reverse(), num_trials=40, key=key
    )
    random = hg.search(problem, space, hg.RandomSearch(), num_trials=400, key=key)
    assert gradient.best_value < 0.1 * random.best_value


def test_rounds_by_hand_equal_the_compiled_study():
    searcher, key = hg.GradientSearch(starts=2), jax.random.key(1)
    whole = run(searcher, 8)
    search_key, train_key = jax.random.split(key)
    state, rows = searcher.init(SPACE, 8, search_key), []
    for i in range(4):
        state, trials = study.advance(
            ridge(30), SPACE, searcher, hg.Reverse(), state, train_key, 1, first=2 * i
        )
        rows.append(trials)
    by_hand = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rows)
    assert relative(by_hand, whole.trials) < 1e-12


@pytest.mark.parametrize("execution", [hg.Vmap(), hg.Chunk(2)])
def test_layouts_agree(execution):
    searcher = hg.RandomSearch(batch=3)
    a, b = run(searcher, 6), run(searcher, 6, execution=execution)
    assert relative(a.trials.values, b.trials.values) < 1e-10


def test_fresh_keys_differ_between_trials_and_not_between_searchers():
    problem = ridge(10, batch_size=3)

    def values(searcher, training_keys):
        return hg.search(
            problem,
            SPACE,
            searcher,
            num_trials=2,
            key=jax.random.key(1),
            training_keys=training_keys,
        ).trials.values

    flat = hg.GridSearch(ties={"rate": ("lr",)})
    for keys in (hg.FreshKeys(), hg.SameKey()):
        a, b = values(hg.RandomSearch(), keys), values(flat, keys)
        np.testing.assert_allclose(a[0], b[0], rtol=1e-12)
    hparams = SPACE.defaults()
    fresh = [hg.unroll(problem, hparams, study_key(i))[0] for i in range(2)]
    assert abs(fresh[0] - fresh[1]) > 1e-6


def test_diverging_trials_are_recorded_and_the_study_goes_on():
    wild = hg.Space({"lr": hg.Log(1e-2, 1e6, default=1e6), "l2": hg.Log(1e-4, 1.0)})
    for searcher in (hg.RandomSearch(), hg.GradientSearch(starts=2)):
        result = hg.search(
            ridge(200),
            wild,
            searcher,
            estimator=hg.Reverse() if searcher.needs_gradient else hg.Value(),
            num_trials=40,
            key=jax.random.key(0),
        )
        assert not np.isfinite(result.trials.values[0])
        assert np.isfinite(result.best_value)


def test_gradient_search_needs_a_gradient():
    with pytest.raises(ValueError, match="needs a hypergradient"):
        run(hg.GradientSearch(), estimator=hg.Value())


def last_of(problem, space, coords, key):
    return runner.evaluate(problem, space, hg.OneStep(), coords[None], key[None])


def searched(problem, space, coords, key):
    search = hg.GradientSearch(starts=1)
    return hg.search(
        problem, space, search, estimator=hg.OneStep(), num_trials=1, key=key
    )


@pytest.mark.parametrize(
    "evaluate", [last_of, pytest.param(searched, marks=pytest.mark.slow)]
)
def test_an_estimator_that_does_not_apply_is_refused(evaluate, key):
    """As by the api: it would see the last of the outer losses alone."""
    problem, coords = ridge(4).replace(outer_every=1), jnp.zeros(SPACE.dim)
    with pytest.raises(ValueError, match=r"OneStep\(\) does not apply.*every 1"):
        evaluate(problem, SPACE, coords, key)


def test_one_problem_does_not_advance_a_space_with_choices(key):
    space = hg.Space({"lr": hg.Log(1e-2, 1.0), "width": hg.Choice((1, 2))})
    with pytest.raises(ValueError, match=r"choices, \['width'\].*advance_by_choice"):
        study.advance(ridge(4), space, hg.RandomSearch(), hg.Value(), (), key, 1)


def test_retraining_uses_each_fresh_key(key):
    problem = ridge(10, batch_size=3)
    hparams, keys = SPACE.defaults(), jax.random.split(key, 4)

    def weights(state, hparams):
        return state.weights

    many = hg.retrain(problem, hparams, keys, weights)
    for i in range(4):
        alone = hg.train(problem, hparams, keys[i]).weights
        assert relative(many[i], alone) < 1e-12


def test_cost_multiple_is_a_rounded_ratio(key):
    multiple = hg.cost_multiple(
        ridge(50), hg.Forward(), SPACE.defaults(), key, repeats=3
    )
    assert multiple >= 1
    assert (2 * multiple).is_integer()


def test_execution_is_chosen_among_the_three(key):
    chosen = hg.choose_execution(ridge(5), SPACE, hg.Value(), key, 8, repeats=1)
    assert type(chosen) in runner.EXECUTIONS.values()
    assert hg.choose_execution(ridge(5), SPACE, hg.Value(), key, 1) == hg.Loop()


def test_a_budget_too_small_for_one_round_is_refused():
    with pytest.raises(ValueError, match="must pay for one round"):
        run(hg.GradientSearch(starts=4), 3)


@dataclass(frozen=True)
class Doubter(hg.Reverse):
    """Doubts its estimate wherever λ is above 1."""

    def estimate(self, problem, hparams, state, key):
        result, state = super().estimate(problem, hparams, state, key)
        info = result.info._replace(doubtful=hparams["x"] > 1)
        return result._replace(info=info), state


def test_doubtful_estimates_are_recorded_and_told(key):
    problem = hg.Problem.from_step(
        start=lambda hp, tick: jnp.ones(()),
        step=lambda hp, s, tick: s,
        outer_at=lambda hp, s, tick: (hp["x"] - 2.0) ** 2,
        num_steps=1,
    )
    space = hg.Space({"x": hg.Linear(0.0, 4.0, default=0.5)})
    descent = hg.GradientSearch(hg.Outer("sgd", learning_rate=0.25), starts=1)
    with pytest.warns(hg.HypergradWarning, match="doubts 2 of 3 estimates"):
        study = hg.search(
            problem, space, descent, estimator=Doubter(), num_trials=3, key=key
        )
    assert list(study.trials.doubtful) == [False, True, True]
