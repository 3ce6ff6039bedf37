"""Sentiment: what sentences of a play become."""

import numpy as np

from experiments.tasks.sentiment import RARE, Sentiment, frequent, questions

PLAY = """ROMEO:
Is the day so young?
Ay me! Sad hours
seem long.

BENVOLIO:
Tut. What sadness lengthens Romeo's hours? It was

ROMEO:
Not having that which makes them short.
"""


def test_sentences_of_a_play_by_hand():
    texts, classes = questions(PLAY, length=7)
    assert texts == [
        "is the day so young",
        "sad hours seem long",
        "what sadness lengthens romeo's hours",
        "not having that which makes them short",
    ]
    assert classes.tolist() == [1, 0, 1, 0]
    assert questions(PLAY, length=4)[0] == []  # one kind is left, and so none


def test_rare_words_are_one_word():
    assert frequent(["a b a c", "b a d"], 3) == [f"a b a {RARE}", f"b a {RARE}"]


def test_sets_are_distinct_phrases_of_both_kinds():
    task = Sentiment()
    sets = [{row.tobytes() for row in part.inputs} for part in task.splits(2)]
    assert [len(s) for s in sets] == [task.num_train, task.num_valid, task.num_test]
    assert len(set.union(*sets)) == sum(map(len, sets))
    for part in task.splits(2):
        assert abs(np.mean(part.truth) - 0.5) < 0.01
