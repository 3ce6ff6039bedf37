"""The publishers' own files, where they are at hand."""

import numpy as np
import pytest

from experiments.data.sources import load


def test_small_series(real_data):
    airline, co2, sunspots = (load(n) for n in ("airline", "co2", "sunspots"))
    assert airline.values.shape == (144, 1)
    assert airline.values[:2, 0].tolist() == [112, 118]
    assert co2.values.shape == (2284, 1)
    assert co2.filled.sum() == 59
    assert np.all(np.isfinite(co2.values))
    assert (sunspots.times[0], sunspots.times[-1]) == ("1700", "2008")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mean"), [("mnist", 0.1307), ("fashion_mnist", 0.2860)]
)
def test_idx_images(name, mean, real_data):
    data = load(name)
    assert data.train.inputs.shape == (60000, 28, 28, 1)
    assert data.test is not None
    assert data.test.inputs.shape == (10000, 28, 28, 1)
    assert abs(data.train.inputs.mean() - mean) < 1e-4
    assert np.bincount(data.test.targets).tolist() == [1000] * 10 or name == "mnist"
    assert data.train.targets[0] == {"mnist": 5, "fashion_mnist": 9}[name]


@pytest.mark.slow
def test_cifar10(real_data):
    data = load("cifar10")
    assert data.test is not None
    assert len(data.train) in (10_000, 50_000)
    assert len(data.test) in (2_000, 10_000)
    assert data.train.inputs.shape[1:] == (32, 32, 3)
    shares = np.bincount(data.train.targets) / len(data.train)
    assert np.all(np.abs(shares - 0.1) < 0.005)
    red, _, blue = data.train.inputs.mean(axis=(0, 1, 2))
    assert abs(red - 0.491) < 0.01
    assert abs(blue - 0.447) < 0.01


@pytest.mark.slow
def test_omniglot(real_data):
    data = load("omniglot")
    assert data.images.shape == (32460, 28, 28, 1)
    assert np.bincount(data.characters).tolist() == [20] * 1623
    assert len(np.unique(data.alphabets)) == 50
    assert len(np.unique(data.alphabets[data.evaluation])) == 20


@pytest.mark.slow
def test_sparse_rows(real_data):
    a9a, news = load("a9a"), load("news20")
    assert a9a.test is not None
    assert news.test is not None
    assert a9a.train.inputs.shape == (32561, 123)
    assert a9a.test.inputs.shape == (16281, 123)
    assert abs(a9a.train.targets.mean() - 0.2408) < 1e-4
    assert news.train.inputs.shape == (11314, 130107)
    assert news.test.inputs.shape == (7532, 130107)
    assert len(news.classes) == 20


@pytest.mark.slow
def test_spoken_digits(real_data):
    data = load("spoken_digits")
    assert data.waveforms.shape == (3000, 8000)
    assert np.bincount(data.digits).tolist() == [300] * 10
    assert np.bincount(data.speakers).tolist() == [500] * 6
    assert data.test.sum() == 300
    assert 0.1 < np.abs(data.waveforms).max() <= 1


@pytest.mark.slow
def test_long_series_and_texts(real_data):
    etth1, plays, wiki = (load(n) for n in ("etth1", "tiny_shakespeare", "wikitext2"))
    assert etth1.values.shape == (17420, 7)
    assert not etth1.filled.any()
    assert (len(plays.text), len(set(plays.text))) == (1_115_394, 65)
    assert wiki.test is not None
    assert "Homarus gammarus" in wiki.text
