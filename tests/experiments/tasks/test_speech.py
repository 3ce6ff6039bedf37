"""Speech: whose recordings are for what, and what a network is shown."""

import numpy as np
import pytest

from experiments.data.values import Speech as Recordings
from experiments.tasks import speech
from experiments.tasks.speech import Speech

DIGITS, SPEAKERS, TAKES = 10, 3, 4


@pytest.fixture
def recordings(monkeypatch):
    """Of each digit, speaker and take, a tone of its own loudness."""
    index = np.indices((DIGITS, SPEAKERS, TAKES)).reshape(3, -1).astype(np.int32)
    digits, speakers, takes = index
    wave = np.sin(np.arange(2000) * 0.5)
    loudness = np.linspace(0.1, 1.0, len(digits))
    found = Recordings(
        waveforms=(loudness[:, None] * wave[None]).astype(np.float32),
        digits=digits,
        speakers=speakers,
        takes=takes,
        test=takes < 1,
        names=("a", "b", "c"),
        sample_rate=8000,
    )
    monkeypatch.setattr(speech, "load", lambda name: found)
    return found


@pytest.mark.parametrize("tested_on", ["takes", "speakers"])
def test_what_is_tested_on_is_never_trained_on(tested_on, recordings):
    """Loudness tells which recording a row is."""
    held = recordings.test if tested_on == "takes" else recordings.speakers == 2
    free = int(np.sum(~held))
    sizes = {"num_train": free - 10, "num_valid": 10, "num_test": int(held.sum())}
    local = type("Local", (Speech,), {})  # What is cached is by type.
    task = local(tested_on=tested_on, mels=8, batch_size=8, **sizes)
    found = task.data()
    level = lambda images: images.mean(axis=(1, 2, 3))
    rows = dict(zip(level(found.inputs).tolist(), np.flatnonzero(~held), strict=True))
    rows |= dict(zip(level(found.test[0]).tolist(), np.flatnonzero(held), strict=True))
    sets = [{rows[v] for v in level(part.inputs).tolist()} for part in task.splits(0)]
    assert [len(s) for s in sets] == list(sizes.values())
    assert len(set.union(*sets)) == sum(map(len, sets))
    assert sets[2] == set(np.flatnonzero(held).tolist())
    for part, rows_of in zip(task.splits(0), sets, strict=True):
        digits = sorted(recordings.digits[sorted(rows_of)].tolist())
        assert sorted(part.truth.tolist()) == digits


def test_images_are_standardised_by_what_is_not_for_testing(recordings):
    found = Speech(mels=8).data()
    assert found.inputs.shape[1:] == (4, 8, 1)
    assert found.inputs.mean() == pytest.approx(0, abs=1e-5)
    assert found.inputs.std() == pytest.approx(1, rel=1e-5)
