"""Characters: no symbol of one stretch of the text is in another set."""

import numpy as np
import pytest

from experiments.data.values import Text
from experiments.tasks import characters
from experiments.tasks.characters import Characters

TEXT = "".join(chr(ord("A") + i) for i in range(300))  # each symbol once


def symbols(part):
    return set(part.inputs.ravel().tolist()) | set(part.truth.ravel().tolist())


@pytest.mark.parametrize("held", [None, TEXT[250:]])
def test_sets_share_no_character_of_the_text(held, monkeypatch):
    text = TEXT[:250] if held else TEXT
    monkeypatch.setattr(characters, "load", lambda name: Text(text, held))
    sizes = {"num_train": 20, "num_valid": 3, "num_test": 3, "batch_size": 2}
    local = type("Local", (Characters,), {})  # What is cached is by type.
    task = local(source="wikitext2", length=7, **sizes)
    parts = task.splits(1)
    sets = [symbols(part) for part in parts]
    assert len(set.union(*sets)) == sum(map(len, sets))
    for part in parts:
        np.testing.assert_array_equal(part.truth, part.inputs + 1)  # what follows
        assert len({row.tobytes() for row in part.inputs}) == len(part.inputs)
    if held:
        assert min(sets[2]) >= 250
    assert not np.array_equal(task.splits(2).train.inputs, parts.train.inputs)
