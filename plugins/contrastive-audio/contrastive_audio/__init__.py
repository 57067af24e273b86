"""Sound as a modality: an encoder of log-mel spectrograms, and clips with captions in a folder.

Config classes only; torch is imported in ``build()``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from contrastive.interface import Dataset, Encoder, Purpose
from contrastive_audio.scale import most_mels

if TYPE_CHECKING:
    from contrastive.interface import EncoderModule, Samples

__all__ = ["AudioFolder", "LogMel"]


class LogMel(Encoder):
    """A pre-norm transformer over patches of a log-mel spectrogram, with random weights.

    The spectrogram is relative to the loudest place of its clip, so loudness makes no difference.
    """

    modality: ClassVar[str] = "audio"

    sample_rate: Annotated[int, Field(ge=4_000, le=192_000)] = 16_000
    """Samples a second; files with another rate are resampled, arrays must have this one."""
    seconds: Annotated[float, Field(ge=0.1, le=600)] = 10.0
    """Of a clip that are heard; the rest is cut off, shorter ones are padded."""
    mels: Annotated[int, Field(gt=0, le=8_192)] = 64
    """Bands of the spectrogram."""
    patch: Annotated[int, Field(gt=0, le=60_000)] = 4
    """Frames of 10 ms in a token."""
    width: Annotated[int, Field(gt=0, le=65_536)] = 256
    """Of each token, and so of the features."""
    depth: Annotated[int, Field(gt=0, le=1_000)] = 6
    """Blocks."""
    heads: Annotated[int, Field(gt=0, le=65_536)] = 4
    """Attention heads of each block."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of activations that training drops."""
    augment: Literal["none", "spec"] = "none"
    """Random changes while training: spec, SpecAugment (Park et al. 2019, arXiv:1904.08779), which
    blanks two ranges of frames and two of bands; with it, two views of a clip differ."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % self.heads:
            msg = f"width {self.width} is not a multiple of heads {self.heads}"
            raise ValueError(msg)
        if self.mels > (most := most_mels(self.sample_rate)):
            msg = f"{self.mels} mels are too fine for {self.sample_rate} Hz; at most {most}"
            raise ValueError(msg)
        return self

    def build(self) -> EncoderModule:
        """Return the transformer, its tokens averaged."""
        from contrastive_audio.log_mel import LogMelModule

        return LogMelModule(self)


class AudioFolder(Dataset):
    """Your own sound files, with captions in a CSV, TSV or JSONL file beside them.

    A row may also name an image, for models of three modalities. The splits are those of the split
    column; else a hash of each clip's name (or group) decides, always the same.
    """

    folder: Path
    """The files, in folders as you like; captions name them relative to it."""
    captions: Path | None = None
    """The captions, relative to the folder; found as captions or metadata .csv, .tsv,
    .jsonl, or captions.txt."""
    audio_column: str | None = None
    """Path of the sound; found as audio, file_name or filename."""
    text_column: str | None = None
    """The caption; found as text, caption or sentence."""
    image_column: str | None = None
    """Path of an image that belongs to it; found as image."""
    group_column: str | None = None
    """Rows with equal values are positives of each other; found as group or group_id. Without it
    they are the captions of one clip."""
    label_column: str | None = None
    """The class of the clip; found as label."""
    split_column: str | None = None
    """train, val, test or a name of yours; found as split. validation, valid and dev mean val."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the clips (or groups) in val, and again in test, where only the hash decides."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the rows of a split that may be bad and left out."""

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read the captions and look for the files; nothing is decoded.

        Args:
            split: ``train``, ``val``, ``test``, a name of the split column, or several joined
                by ``+``.
            purpose: makes no difference.

        Raises:
            DataError: a file is missing or broken, a column is missing, or too many rows are bad.
        """
        del purpose
        from contrastive_audio.audio_folder import read

        return read(self, split)
