"""The disk driver: equal to Reverse, and to itself after a kill or a flipped bit."""

import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hypergrad as hg
from hypergrad.replay import kept, replay
from tests.problems import cubic, relative, ridge

ROOT = Path(__file__).parent.parent
STEPS = 24


def decaying(hparams):
    """Momentum, and a rate that counts its steps in an integer."""
    return optax.chain(
        optax.trace(0.5),
        optax.scale_by_schedule(lambda count: -hparams["lr"] / (1 + 0.1 * count)),
    )


def problem(**changes):
    """Batches, and an optimiser with integers in its state."""
    return ridge(STEPS, batch_size=5, optimizer=decaying, **changes)


def hparams():
    return {"lr": 0.1, "l2": np.linspace(0.1, 0.4, 4)}


def run(folder, **options):
    return replay(problem(), hparams(), jax.random.key(0), folder, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed"), segment=4)


def same_bits(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


def test_equals_reverse(undisturbed, key):
    exact = hg.value_and_hypergrad(problem(), hg.Reverse(hg.NoCheckpoint()))
    assert relative(undisturbed[:2], exact(hparams(), key)) < 1e-12
    state = hg.train(problem(), hparams(), key)
    assert relative(undisturbed.info.state, state) < 1e-12


@pytest.mark.parametrize("outer_every", [4])
def test_losses_along_the_way_and_uneven_segments(outer_every, tmp_path, key):
    one = ridge(11, outer_every=outer_every)
    exact = hg.value_and_hypergrad(one, hg.Reverse())(hparams(), key)
    got = replay(one, hparams(), key, tmp_path, checkpoint=hg.NoCheckpoint())
    assert relative(got[:2], exact) < 1e-12


def test_start_integers_and_direct_terms(tmp_path, key):
    one = hg.Problem.from_step(
        start=lambda hp, tick: hp["x"],
        step=lambda hp, s, tick: hp["x"] * s,
        outer_at=lambda hp, s, tick: hp["x"] * s * hp["n"],
        num_steps=3,
    )
    got = replay(one, {"x": 2.0, "n": 3}, key, tmp_path)
    assert float(got.hypergrad["x"]) == 3 * 5 * 2.0**4
    assert got.hypergrad["n"].dtype == jax.dtypes.float0


KILLED = """
import os, signal, jax
jax.config.update("jax_enable_x64", True)
from tests.test_replay import run
fsync, calls = os.fsync, 0
def dying(handle):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)
os.fsync = dying
run({folder!r}, segment=4)
"""


def test_a_run_killed_in_its_backward_pass_resumes_to_the_same_bits(
    undisturbed, tmp_path
):
    # Two fsyncs a file, six states; the third adjoint dies with its file half written.
    code = KILLED.format(at=12 + 2 + 2 + 1, folder=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    names = sorted(file.name for file in tmp_path.iterdir())
    assert sum(name.startswith("adjoint") for name in names) == 2
    assert sum(name.endswith(".tmp") for name in names) == 1

    done = []
    resumed = run(tmp_path, segment=4, report=lambda *told: done.append(told))
    assert done == [(9, 12), (10, 12), (11, 12), (12, 12)]
    assert same_bits(resumed, undisturbed)
    assert not list(tmp_path.glob(".*"))

    done.clear()
    again = run(tmp_path, segment=4, report=lambda *told: done.append(told))
    assert done == []
    assert same_bits(again, undisturbed)


class StopError(Exception):
    pass


def stopped(folder, at, **options):
    def report(done, total):
        if done == at:
            raise StopError

    with pytest.raises(StopError):
        run(folder, segment=4, report=report, **options)


@pytest.mark.parametrize("at", [1, 6, 9])
@pytest.mark.parametrize("arity", [None, 2])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(at, arity, undisturbed, tmp_path):
    stopped(tmp_path, at, arity=arity)
    done = []
    got = run(tmp_path, segment=4, arity=arity, report=lambda i, n: done.append(i))
    # A state that the tree does not keep is computed again, and said again.
    assert done == list(range(done[0], 13))
    assert done[0] == at + 1 if not arity else done[0] <= at + 1
    assert same_bits(got, undisturbed)


@pytest.mark.parametrize("kind", ["adjoint", "state"])
def test_a_flipped_bit_costs_the_step_that_it_was_in(kind, undisturbed, tmp_path):
    stopped(tmp_path, 9)
    files = sorted(tmp_path.glob(f"{kind}-*"))
    # The newest adjoint; or all states but the first, so that most are run again.
    for file in files[:1] if kind == "adjoint" else files[1:]:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    done = []
    got = run(tmp_path, segment=4, report=lambda i, n: done.append(i))
    backwards = [i for i in done if i > 6]
    assert backwards == ([9, 10, 11, 12] if kind == "adjoint" else [10, 11, 12])
    assert same_bits(got, undisturbed)


def test_another_run_is_refused(tmp_path, key):
    stopped(tmp_path, 2)
    before = sorted(tmp_path.iterdir())
    others = {
        "hparams": (problem(), hparams() | {"lr": 0.2}, key, 4),
        "key": (problem(), hparams(), jax.random.key(1), 4),
        "data": (problem(valid=ridge(1).data.train), hparams(), key, 4),
        "steps": (problem().replace(num_steps=23), hparams(), key, 4),
        "optimiser": (ridge(STEPS, batch_size=5), hparams(), key, 4),
        "shapes": (cubic(STEPS), 2.0, key, 4),
        "segment": (problem(), hparams(), key, 5),
    }
    for name, (one, at, other_key, segment) in others.items():
        with pytest.raises(ValueError, match="another problem, hparams, key"):
            replay(one, at, other_key, tmp_path, segment=segment)
        assert sorted(tmp_path.iterdir()) == before, name


@pytest.mark.parametrize("arity", [2, 3, 10])
@pytest.mark.parametrize("end", [1, 2, 9, 64, 1000])
def test_the_tree_keeps_few_states_and_computes_few_again(arity, end):
    levels = 1
    while arity**levels < end:
        levels += 1
    computed, disk = 0, set(kept(end - 1, arity))
    for target in reversed(range(end)):
        wanted = kept(target, arity)
        assert wanted <= set(range(1, target + 1))
        assert len(wanted) <= arity * levels
        nearest = max((i for i in disk if i <= target), default=0)
        computed += target - nearest
        disk = (disk | set(range(nearest, target + 1))) & wanted
    assert computed <= (levels - 1) * end


def test_without_an_arity_all_are_kept():
    assert kept(5, None) == {1, 2, 3, 4, 5}


@pytest.mark.slow
def test_the_disk_holds_the_tree_only(tmp_path, undisturbed):
    most = 0

    def report(done, total):
        nonlocal most
        most = max(most, len(list(tmp_path.glob("state-*"))))

    got = replay(
        problem(),
        hparams(),
        jax.random.key(0),
        tmp_path,
        segment=1,
        arity=3,
        report=report,
    )
    assert most <= 3 * 3 + 1, "24 segments: three levels of three, and the end"
    assert relative(got[:2], undisturbed[:2]) < 1e-12


@pytest.mark.parametrize("option", [{"segment": 0}, {"arity": 1}])
def test_wrong_arguments_are_refused(option, tmp_path, key):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be >="):
        replay(cubic(), 2.0, key, tmp_path, **option)


def test_integers_alone_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match=r"write 1\.0 rather than 1"):
        replay(cubic(), jnp.asarray(2), key, tmp_path)
