"""Waveforms as pictures of sound: log energy over time and mel-scaled frequency."""

import numpy as np

_ROWS = 256  # waveforms transformed at once, to bound the memory


def log_mel(
    waveforms: np.ndarray,
    sample_rate: int = 8000,
    *,
    num_mels: int = 32,
    window_seconds: float = 0.032,
    hop_seconds: float = 0.016,
    floor: float = 1e-6,
) -> np.ndarray:
    """log(floor + Σ_f M[m, f] |Σ_n h[n] x[t hop + n] exp(-2πi f n / N)|² / Σ h²).

    h is the Hann window of N samples and M a bank of triangular filters, evenly spaced
    in mel (Davis and Mermelstein 1980).

    Args:
        waveforms: [n, samples].
        sample_rate: samples a second.
        num_mels: filters from 0 to half the sample rate.
        window_seconds: length of a frame.
        hop_seconds: from one frame to the next.
        floor: energy at which the logarithm flattens; silence is log(floor).

    Returns:
        [n, frames, num_mels] float32 with frames = 1 + (samples - N) // hop.

    Raises:
        ValueError: a waveform is shorter than a frame, or a filter holds no frequency.

    Example:
        >>> log_mel(np.zeros((2, 8000))).shape
        (2, 61, 32)
    """
    window = round(window_seconds * sample_rate)
    hop = round(hop_seconds * sample_rate)
    if waveforms.ndim != 2 or waveforms.shape[1] < window or hop < 1:
        raise ValueError(
            f"waveforms: got {list(waveforms.shape)}, a window of {window} and a hop "
            f"of {hop} samples; expected [n, at least a window] and a hop of at least 1"
        )
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    filters = mel_filters(sample_rate, window, num_mels) / np.sum(hann**2)
    chunks = np.array_split(waveforms, max(1, -(-len(waveforms) // _ROWS)))
    found = []
    for chunk in chunks:
        frames = np.lib.stride_tricks.sliding_window_view(chunk, window, axis=1)
        power = np.abs(np.fft.rfft(frames[:, ::hop] * hann)) ** 2
        found.append(np.log(floor + power @ filters.T).astype(np.float32))
    return np.concatenate(found)


def mel_filters(sample_rate: int, window: int, num_mels: int) -> np.ndarray:
    """[num_mels, window // 2 + 1]: filter m is 1 at its centre, 0 at its neighbours'.

    The centres are even in mel(f) = 2595 log10(1 + f / 700), f in Hz (O'Shaughnessy
    1987), between 0 and half of `sample_rate`.

    Raises:
        ValueError: a filter is so narrow that no frequency of the window falls into it.
    """
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    points = 700 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595) - 1)
    low, centre, high = (points[i : num_mels + i, None] for i in range(3))
    frequencies = np.fft.rfftfreq(window, 1 / sample_rate)[None]
    rise, fall = (
        (frequencies - low) / (centre - low),
        (high - frequencies) / (high - centre),
    )
    filters = np.maximum(0, np.minimum(rise, fall))
    if empty := int(np.sum(filters.sum(axis=1) == 0)):
        raise ValueError(
            f"num_mels: got {num_mels}, of which {empty} hold no frequency of a window "
            f"of {window} samples; expected fewer filters or a longer window"
        )
    return filters
