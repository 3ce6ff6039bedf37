"""Spoken digits: a second of sound as log energies over time and mel-scaled frequency.

Rows are images [frames, mels, 1], which a convolutional network sees whole and a
recurrent one hears frame by frame. The tones are synthetic and made here; the
recordings are the Free Spoken Digit Dataset, with its publisher's test part.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from experiments.data.sources import load
from experiments.data.speech import log_mel
from experiments.registry import register
from experiments.supervised.networks import AnyNetwork, Convolutional
from experiments.supervised.task import Count, Source, Supervised

Seconds = Annotated[float, Field(gt=0, le=1)]


@register("speech")
class Speech(Supervised):
    """Options of the task, beside those of every task on rows.

    Attributes:
        source: "tones" are made here; "spoken_digits" are recordings.
        tested_on: the publisher's test "takes" of all speakers, or "speakers" who are
            heard neither in training nor in validation.
        mels: frequency bands.
        window_seconds, hop_seconds: length of a frame, and from one to the next.
    """

    question: ClassVar[frozenset[str]] = Supervised.question | {"tested_on"}
    model: AnyNetwork = Convolutional()
    source: Literal["tones", "spoken_digits"] = "tones"
    tested_on: Literal["takes", "speakers"] = "takes"
    mels: Count = 16
    window_seconds: Seconds = 0.064
    hop_seconds: Seconds = 0.048
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "rmsprop"] = "adam"
    tune: Annotated[tuple[str, ...], Field(min_length=1)] = ("rate", "decay")
    num_steps: Count = 80
    num_train: Count = 240
    num_valid: Count = 120
    num_test: Count = 120

    def data(self) -> Source:
        """Images standardised by all that is not for testing, and digits."""
        found = load(self.source)
        held = found.test
        if self.tested_on == "speakers":
            # The last third of them; of all their recordings.
            held = found.speakers >= len(found.names) - len(found.names) // 3
        images = log_mel(
            found.waveforms,
            found.sample_rate,
            num_mels=self.mels,
            window_seconds=self.window_seconds,
            hop_seconds=self.hop_seconds,
        )[..., None]
        heard = images[~held]
        images = (images - heard.mean()) / heard.std()
        test = images[held], found.digits[held]
        return Source(images[~held], found.digits[~held], 10, test=test)
