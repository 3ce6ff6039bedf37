"""Synthetic utterances: ten classes of gliding formant pairs, as if digits were said.

Each class is two vowels that glide into each other, and each pair of vowels is there
in both orders, so that only the order in time tells them apart. A speaker has a pitch
and a length of vocal tract; a take has its own speed, onset, loudness and noise. Nobody
spoke them: they stand in for recordings where none are at hand.
"""

import numpy as np

from experiments.data.values import Speech

SAMPLE_RATE = 8000
# First and second formant in Hz of men's vowels (Peterson and Barney 1952).
_VOWELS = {
    "i": (270, 2290),
    "e": (530, 1840),
    "a": (730, 1090),
    "o": (570, 840),
    "u": (300, 870),
}
_CLASSES = ("ia", "ai", "ue", "eu", "oi", "io", "ae", "ea", "uo", "ou")
_SPEAKERS = 6


def tones(takes: int = 12, seed: int = 0) -> Speech:
    """A second at 8 kHz for each of 10 classes, 6 speakers and `takes` takes.

    The waveform is Σ_k a_k (1 + cos 2πφ₀(t)) / 2 · sin 2πφ_k(t) in an envelope, plus
    noise: formant k is a chirp whose phase φ_k integrates a frequency that glides from
    the first vowel's to the second's, and φ₀ that of the pitch, which falls by 20%.
    Takes 0 and 1 of each are kept for testing.

    Args:
        takes: utterances of each class by each speaker, at least 3.
        seed: the same seed gives the same utterances.

    Example:
        >>> tones(takes=3).waveforms.shape
        (180, 8000)
    """
    rng = np.random.default_rng(seed)
    pitch, tract = rng.uniform(90, 230, _SPEAKERS), rng.uniform(0.88, 1.15, _SPEAKERS)
    every = np.indices((len(_CLASSES), _SPEAKERS, takes), np.int32)
    digits, speakers, numbers = every.reshape(3, -1)
    waves = [
        _utter(rng, _CLASSES[d], pitch.item(s), tract.item(s))
        for d, s in zip(digits, speakers, strict=True)
    ]
    return Speech(
        waveforms=np.stack(waves),
        digits=digits,
        speakers=speakers,
        takes=numbers,
        test=numbers < 2,
        names=tuple(f"speaker {i}" for i in range(_SPEAKERS)),
        sample_rate=SAMPLE_RATE,
    )


def _utter(
    rng: np.random.Generator, vowels: str, pitch: float, tract: float
) -> np.ndarray:
    samples = rng.integers(2800, 5600)
    time = np.linspace(0, 1, samples)
    # A glide around the middle, as from the first vowel to the second.
    glide = 1 / (1 + np.exp(-(time - rng.uniform(0.4, 0.6)) / 0.06))
    start, end = (
        np.array(_VOWELS[v]) * tract * rng.uniform(0.96, 1.04, 2) for v in vowels
    )
    formants = start[:, None] + (end - start)[:, None] * glide[None]
    voice = pitch * rng.uniform(0.93, 1.07) * (1 - 0.2 * time)
    pulses = (1 + np.cos(2 * np.pi * np.cumsum(voice) / SAMPLE_RATE)) / 2
    chirps = np.sin(2 * np.pi * np.cumsum(formants, axis=1) / SAMPLE_RATE)
    sound = np.array([1.0, 0.6]) @ chirps * pulses * np.sin(np.pi * time) ** 0.5
    wave = rng.normal(scale=rng.uniform(0.005, 0.03), size=SAMPLE_RATE)
    onset = rng.integers(0, SAMPLE_RATE - samples)
    wave[onset : onset + samples] += rng.uniform(0.15, 0.5) * sound
    return np.clip(wave, -1, 1).astype(np.float32)
