"""Synthetic opinions: short phrases, for or against; the order of words decides.

A clause is "the SUBJECT VERB [never|not] [ADVERB] ADJECTIVE"; "not" and "never" turn
the adjective round. Two clauses that disagree are joined by a word that says which one
counts: "A but B" is B, "A although B" is A, "although A , B" is B. So "the plot was
dull but the cast was good" and its mirror image hold the same words and mean the
opposite. Nobody wrote them: they stand in for opinions where none are at hand.
"""

import numpy as np

from experiments.data.values import Labelled, Rows

_SUBJECTS = ("film", "plot", "cast", "music", "book", "meal", "room", "service")
_VERBS = ("is", "was", "seemed", "felt")
_NEGATIONS = ("", "", "", "not", "never")
_ADVERBS = ("", "", "very", "really", "quite", "so")
_ADJECTIVES = (  # against, for
    ("bad", "dull", "poor", "awful", "weak", "boring"),
    ("good", "great", "fine", "lovely", "strong", "charming"),
)
# The two clauses in order of writing, and which of them counts.
_JOINTS = (("{} but {}", 1), ("{} although {}", 0), ("although {} , {}", 1))


def phrases(count: int = 2000, seed: int = 0) -> Labelled[tuple[str, ...]]:
    """Distinct phrases of 4 to 14 words, half of them for (1) and half against (0).

    Args:
        count: phrases; a third have one clause, the rest two that disagree.
        seed: the same seed gives the same phrases.

    Example:
        >>> data = phrases(2)
        >>> len(data.train), sorted(data.train.targets.tolist())
        (2, [0, 1])
    """
    rng, texts = np.random.default_rng(seed), {}
    while len(texts) < count:
        label = len(texts) % 2
        if rng.uniform() < 1 / 3:
            text = _clause(rng, label)
        else:
            pattern, counts = _JOINTS[rng.integers(len(_JOINTS))]
            clauses = [_clause(rng, 1 - label), _clause(rng, 1 - label)]
            clauses[counts] = _clause(rng, label)
            text = pattern.format(*clauses)
        texts.setdefault(text, label)
    order = rng.permutation(count)
    inputs, targets = tuple(texts), np.array(list(texts.values()), np.int32)
    rows = Rows(tuple(inputs[i] for i in order), targets[order])
    return Labelled(rows, test=None, classes=("against", "for"))


def _clause(rng: np.random.Generator, label: int) -> str:
    negation = str(rng.choice(_NEGATIONS))
    adjective = rng.choice(_ADJECTIVES[label ^ bool(negation)])
    parts = ["the", rng.choice(_SUBJECTS), rng.choice(_VERBS), negation]
    return " ".join(filter(None, [*parts, rng.choice(_ADVERBS), adjective]))
