"""Files are found, checked and turned into data; parts never overlap."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import typer

from experiments import cli
from experiments.data import files, sources, splits
from experiments.data.files import DamagedData, MissingData
from experiments.data.series import forecast, interpolate
from experiments.data.sources import load
from experiments.data.sparse import Csr
from experiments.data.speech import log_mel, mel_filters
from experiments.data.text import PAD, Vocabulary, next_symbol, words
from tests.experiments import publishing

STEMS = {"train": (5, 1), "t10k": (3, 2)}


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """The four files of MNIST with hardly an image in them."""
    monkeypatch.setenv("HYPERGRAD_DATA", str(tmp_path))
    for part, (count, label) in STEMS.items():
        images = np.full((count, 28, 28), 51, np.uint8)
        labels = np.full(count, label, np.uint8)
        stem = tmp_path / "mnist" / part
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            file = stem.with_name(f"{part}-{kind}-ubyte.gz")
            publishing.write(file, publishing.idx(array))
    return tmp_path


def accept(folder):
    """List every file as `sha256sum` would."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(folder)}"
        for path in folder.rglob("*.gz")
    ]
    (folder / "SHA256SUMS").write_text("\n".join(lines))


def test_own_copies_are_read_once_listed(mnist):
    with pytest.raises(DamagedData, match=r"got: +sha256 (.|\n)*SHA256SUMS"):
        load("mnist")
    accept(mnist)
    data = load("mnist")
    assert data is load("mnist")
    np.testing.assert_allclose(data.train.inputs, np.full((5, 28, 28, 1), 0.2))
    assert data.test is not None
    assert data.test.targets.tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="read-only"):
        data.train.inputs[0] = 0


def test_a_truncated_file_is_refused_by_name(mnist):
    accept(mnist)
    path = mnist / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedData, match=f"{path}: truncated, or another edition"):
        load("mnist")
    accept(mnist)  # Whoever accepts a broken file still hears of it.
    with pytest.raises(DamagedData, match=f"{path}: not gzip, or damaged"):
        load("mnist")


def test_images_and_labels_must_fit(mnist):
    path = mnist / "mnist" / "train-labels-idx1-ubyte.gz"
    publishing.write(path, publishing.idx(np.zeros(4, np.uint8)))
    accept(mnist)
    with pytest.raises(DamagedData, match=f"{path}: not its images' labels"):
        load("mnist")


def test_a_file_is_hashed_once_and_again_when_it_changes(tmp_path):
    path = publishing.write(tmp_path / "a", b"1")
    before = files._sha256.cache_info().misses
    assert files.sha256(path) == files.sha256(path) == hashlib.sha256(b"1").hexdigest()
    assert files._sha256.cache_info().misses == before + 1
    publishing.write(path, b"22")
    assert files.sha256(path) == hashlib.sha256(b"22").hexdigest()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (None, "HYPERGRAD_DATA is not set"),
        ("nowhere", "HYPERGRAD_DATA names no folder"),
        (".", "no such file"),
    ],
)
def test_what_is_missing_is_one_message(folder, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HYPERGRAD_DATA", raising=False)
    if folder is not None:
        monkeypatch.setenv("HYPERGRAD_DATA", str(tmp_path / folder))
    with pytest.raises(MissingData) as caught:
        load("a9a")
    text = str(caught.value)
    assert message in text
    for part in ('"a9a"', "a9a/a9a", "https://www.csie.ntu", "HYPERGRAD_DATA"):
        assert part in text
    assert folder is None or str(tmp_path) in text
    with pytest.raises(typer.Exit) as stopped, cli._polite():
        load("a9a")
    assert stopped.value.exit_code == 2
    assert text in capsys.readouterr().err


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="expected one of digits, mnist"):
        load("minst")  # type: ignore[call-overload]


def test_data_know_neither_jax_nor_the_library():
    code = (
        "import sys; from experiments.data import sources, speech, splits, text; "
        "print({'jax', 'hypergrad', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


def test_sparse_rows_and_columns():
    dense = np.random.default_rng(0).poisson(0.4, (6, 5)).astype(np.float32)
    rows, columns = np.nonzero(dense)
    indptr = np.searchsorted(rows, np.arange(7))
    matrix = Csr(dense[rows, columns], columns, indptr, (6, 5))
    chosen = np.array([4, 0, 4])
    np.testing.assert_array_equal(matrix.dense(), dense)
    np.testing.assert_array_equal(matrix.take(chosen).dense(), dense[chosen])
    np.testing.assert_array_equal(matrix.columns(chosen[:2]).dense(), dense[:, [4, 0]])
    most = np.argsort(-np.sum(dense > 0, axis=0), kind="stable")[:2]
    assert matrix.frequent_columns(2).tolist() == sorted(most)


DRAWS = {
    "uniform": lambda sizes, seed: splits.draw(90, sizes, seed),
    "stratified": lambda sizes, seed: splits.draw_stratified(
        np.arange(90) % 3, sizes, seed
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_parts_are_disjoint_and_follow_the_seed(name):
    draw = DRAWS[name]
    for seed in range(20):
        parts = draw((40, 30, 20), seed)
        assert [len(part) for part in parts] == [40, 30, 20]
        assert sorted(np.concatenate(parts)) == list(range(90))
        again = np.concatenate(draw((40, 30, 20), seed))
        np.testing.assert_array_equal(np.concatenate(parts), again)
        assert not np.array_equal(draw((40,), seed)[0], draw((40,), seed + 1)[0])
    for sizes in ((50, 30, 11), (-1, 2)):
        with pytest.raises(ValueError, match=r"sizes: got .* the 90 that there are"):
            draw(sizes, 0)


def test_stratified_parts_hold_each_class_in_proportion():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    for seed in range(20):
        for part in splits.draw_stratified(labels, (500, 200, 50), seed):
            counts = np.bincount(labels[part], minlength=3)
            share = len(part) / 1000
            assert np.all(np.abs(counts - share * np.array([600, 300, 100])) <= 3)


def test_wrong_labels_are_as_many_as_asked_for_and_wrong():
    labels = np.arange(1000) % 10
    shown, wrong = splits.wrong_labels(labels, 0.3, 10, seed=1)
    assert wrong.sum() == 300
    np.testing.assert_array_equal(shown != labels, wrong)
    moves = np.bincount((shown - labels)[wrong] % 10, minlength=10)
    assert moves[0] == 0
    assert np.all(np.abs(moves[1:] - 300 / 9) < 25)
    for fraction, classes in ((1.1, 10), (0.1, 1)):
        with pytest.raises(ValueError, match="expected"):
            splits.wrong_labels(labels, fraction, classes, seed=0)


def test_log_mel_is_its_equation():
    waves = np.random.default_rng(0).normal(size=(2, 100))
    found = log_mel(
        waves, 1000, num_mels=5, window_seconds=0.032, hop_seconds=0.02, floor=1e-3
    )
    hann = [np.sin(np.pi * n / 32) ** 2 for n in range(32)]
    filters = mel_filters(1000, 32, 5)
    assert found.shape == (2, 4, 5)
    for i, t, m in np.ndindex(2, 4, 5):
        energy = 0.0
        for f in range(17):
            angle = 2j * np.pi * f / 32
            sums = sum(
                hann[n] * waves[i, 20 * t + n] * np.exp(-angle * n) for n in range(32)
            )
            energy += filters[m, f] * abs(sums) ** 2
        expected = np.log(1e-3 + energy / sum(h**2 for h in hann))
        np.testing.assert_allclose(found[i, t, m], expected, rtol=1e-5)


@pytest.mark.parametrize("hertz", [250, 1000, 3100])
def test_a_pure_tone_lands_in_its_filter(hertz):
    tone = np.sin(2 * np.pi * hertz * np.arange(8000) / 8000)[None]
    mels = 2595 * np.log10(1 + np.array([hertz, 4000]) / 700)
    place = mels[0] / mels[1] * 33 - 1  # filter m has its centre at (m + 1) / 33
    assert set(log_mel(tone)[0].argmax(axis=1)) == {round(place)}
    np.testing.assert_allclose(log_mel(0 * tone), np.log(1e-6), rtol=1e-6)


def test_log_mel_refusals():
    with pytest.raises(ValueError, match="num_mels: got 200"):
        log_mel(np.zeros((1, 8000)), num_mels=200)
    with pytest.raises(ValueError, match="waveforms: got"):
        log_mel(np.zeros((1, 100)))


def test_text_windows_share_no_symbol_between_parts():
    numbers = np.arange(1000)
    parts = next_symbol(numbers, 7, (0.8, 0.1, 0.1))
    seen = [set(np.r_[p.inputs.ravel(), p.targets.ravel()]) for p in parts]
    assert all(np.array_equal(p.inputs + 1, p.targets) for p in parts)
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert len(parts[0].inputs) == 799 // 7
    with pytest.raises(ValueError, match="length: got 100 for a part of 100"):
        next_symbol(numbers, 100, (0.8, 0.1, 0.1))
    with pytest.raises(ValueError, match="fractions"):
        next_symbol(numbers, 7, (0.8, 0.3))


def test_vocabularies():
    characters = Vocabulary.of("to be or not")
    assert characters.decode(characters.encode("boten")) == "boten"
    rows, vocabulary = words(["not good", "good"])
    assert vocabulary.symbols == (PAD, "good", "not")
    assert vocabulary.encode_rows(rows, 3).tolist() == [[0, 2, 1], [0, 0, 1]]
    with pytest.raises(ValueError, match="'bad'"):
        vocabulary.encode(["bad"])
    with pytest.raises(ValueError, match="longest row's 2"):
        vocabulary.encode_rows(rows, 1)


def test_forecasts_look_at_their_own_part_only():
    time = np.stack([np.arange(200.0), np.arange(200.0) ** 2], axis=1)
    made = forecast(time, 8, 3, (0.5, 0.25, 0.25))
    np.testing.assert_allclose(made.mean, time[:100].mean(axis=0))
    np.testing.assert_allclose(made.scale, time[:100].std(axis=0))
    seen = []
    for part in made.parts:
        steps = part.inputs[..., 0] * made.scale[0] + made.mean[0]
        after = part.targets.reshape(-1, 3, 2)[..., 0] * made.scale[0] + made.mean[0]
        whole = np.concatenate([steps, after], axis=1).round().astype(int)
        np.testing.assert_array_equal(whole, whole[:, :1] + np.arange(11)[None])
        seen.append(set(whole.ravel()))
    assert [len(part) for part in made.parts] == [90, 40, 40]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 200
    with pytest.raises(ValueError, match=r"expected at most 50"):
        forecast(time, 48, 3, (0.5, 0.25, 0.25))


def test_gaps_become_straight_lines():
    values = np.array([[np.nan, 1.0, np.nan, np.nan, 4.0]]).T
    filled, gaps = interpolate(values)
    assert filled.ravel().tolist() == [1, 1, 2, 3, 4]
    assert gaps.ravel().tolist() == [True, False, True, True, False]
    with pytest.raises(ValueError, match="without a single number"):
        interpolate(values[:1])


@pytest.mark.parametrize("name", sources.EMBEDDED)
def test_embedded_data_need_no_folder_and_are_always_the_same(name, monkeypatch):
    monkeypatch.delenv("HYPERGRAD_DATA", raising=False)
    once, twice = sources._READERS[name](), load(name)
    for field in ("waveforms", "values"):
        if field in vars(once):
            np.testing.assert_array_equal(vars(once)[field], vars(twice)[field])
            assert np.all(np.isfinite(vars(once)[field]))
    if "train" in vars(once):
        assert np.array_equal(once.train.inputs, twice.train.inputs)
        counts = np.bincount(once.train.targets)
        assert counts.max() - counts.min() <= 10


def test_in_phrases_the_order_of_words_decides():
    """A linear model of the words' counts cannot reach what the grammar knows."""
    rows = load("phrases").train
    assert len(set(rows.inputs)) == len(rows) == 2000
    tokens, vocabulary = words(rows.inputs)
    counts = np.stack(
        [np.bincount(vocabulary.encode(t), minlength=len(vocabulary)) for t in tokens]
    )
    signs = 2.0 * rows.targets - 1
    weights, *_ = np.linalg.lstsq(counts[:1000], signs[:1000], rcond=None)
    right = np.mean((counts[1000:] @ weights > 0) == rows.targets[1000:])
    assert right < 0.7
    for text, target in zip(rows.inputs, rows.targets, strict=True):
        first, _, second = text.partition(" although ")
        clause = first if second else text.split(" but ")[-1].split(" , ")[-1]
        *rest, adjective = clause.split()
        good = adjective in {"good", "great", "fine", "lovely", "strong", "charming"}
        assert target == (good != bool({"not", "never"} & set(rest)))


def test_tones_differ_by_their_order_in_time():
    """Spectra averaged over time confuse a class with its mirror image."""
    data = load("tones")
    mels = np.exp(log_mel(data.waveforms).astype(float))
    loud = mels.sum(axis=2)
    centre = (loud * np.arange(61)).sum(axis=1) / loud.sum(axis=1)
    early = np.arange(61)[None] < centre[:, None]
    halves = [np.log((mels * mask[..., None]).sum(axis=1)) for mask in (early, ~early)]
    averaged, ordered = halves[0] + halves[1], np.concatenate(halves, axis=1)

    def score(features):
        features = np.c_[features - features.mean(axis=0), np.ones(len(features))]
        onehot, train = np.eye(10)[data.digits], ~data.test
        gram = features[train].T @ features[train] + np.eye(features.shape[1])
        weights = np.linalg.solve(gram, features[train].T @ onehot[train])
        return np.mean(
            (features @ weights).argmax(1)[data.test] == data.digits[data.test]
        )

    assert score(averaged) < 0.7
    assert score(ordered) > 0.8


def test_the_noise_of_seasons_is_what_it_says():
    values = load("seasons").values[:, 0]
    t = np.arange(len(values))
    week = 0.5 + 0.5 * np.sin(2 * np.pi * t / 168)
    clean = 0.002 * t + np.sin(np.pi * t / 12) + week * np.sin(np.pi * t / 6 + 1)
    noise = values - clean
    assert abs(np.std(noise[1:] - 0.7 * noise[:-1]) - 0.15) < 0.01
