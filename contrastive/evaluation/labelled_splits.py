"""Two splits of labelled samples as what a tower makes of them, fit to learn from and to judge.

Shapes: N samples, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from contrastive.config.arguments import check_cache, check_model
from contrastive.data.bad_rows import bad_rows_of
from contrastive.data.loading import OnBad, uniform_batches
from contrastive.data.samples import class_indices, rows_of
from contrastive.encoders.foreign_trial import check_foreign
from contrastive.errors import DataError, SpecError
from contrastive.evaluation.leakage import content_keys, held_out_rows, left_out, seen_samples
from contrastive.features.cache import FeatureCache, run_encoder
from contrastive.inference.embed_distinct import distinct_rows
from contrastive.nn.device import batch_size as fitting_batch_size
from contrastive.nn.embeddings import check_finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.data.samples import Samples
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import Shared

Inputs = Literal["features", "embeddings"]


class LabelledFeatures(NamedTuple):
    """Samples with their classes."""

    features_NF: np.ndarray
    truth_N: np.ndarray

    def take(self, indices: np.ndarray) -> LabelledFeatures:
        """Return some of them."""
        return LabelledFeatures(self.features_NF[indices], self.truth_N[indices])


@dataclass(frozen=True)
class Splits:
    """What is learned from, and what is judged."""

    classes: list[str]
    train: LabelledFeatures
    test: LabelledFeatures
    test_rows: list[dict[str, Any]]
    train_split: str
    faults: list[str]
    notes: list[str]
    dropped: int = 0
    """Test rows left out since training has them, or others of their groups."""


@dataclass(frozen=True)
class Reader:
    """Whose features are read, and by what means."""

    model: ContrastiveModel
    modality: str = "image"
    inputs: Inputs = "features"
    cache: FeatureCache | None = None
    workers: int = 0
    shared: Shared = "refuse"
    """What is done about test samples that were trained on, in the model or in the probe."""

    def read(
        self,
        train_samples: Samples,
        test_samples: Samples,
        *,
        train_split: str = "train",
        split: str = "test",
    ) -> Splits:
        """Encode each distinct sample once: an image with five captions is one image.

        Raises:
            DataError: a split has no classes or is empty, a row has no label or two, a class has
                test samples but none to learn from, the splits share samples, the model was
                trained on the test samples, or too many samples are bad.
            SpecError: the model has no such tower.
        """
        if self.inputs not in ("features", "embeddings"):
            msg = f"a probe sees features or embeddings, not {self.inputs!r}"
            raise SpecError(msg)
        check_model(self.model)
        check_cache(self.cache)
        self.model.tower(self.modality)  # says which there are, before anything is read
        known = [*_classes(train_samples, train_split), *_classes(test_samples, split)]
        classes = list(dict.fromkeys(known))
        train_rows = _labelled_rows(train_samples, self.modality, classes, train_split)
        test_rows = _labelled_rows(test_samples, self.modality, classes, split)
        learned = seen_samples(content_keys(train_rows, [self.modality]))
        kept = held_out_rows(self.model.seen, test_rows, split, self.shared)
        kept = held_out_rows(learned, kept, split, self.shared, of=f"split {train_split!r}")
        dropped = len(test_rows) - len(kept)
        faults: list[str] = []
        train, _ = self._encode(train_samples, train_rows, classes, faults)
        test, good_rows = self._encode(test_samples, kept, classes, faults)
        _check_classes(train, test, classes, train_split, split)
        notes = left_out(dropped, len(test_rows))
        return Splits(classes, train, test, good_rows, train_split, faults, notes, dropped)

    def _encode(
        self,
        samples: Samples,
        rows: Sequence[dict[str, Any]],
        classes: Sequence[str],
        lines: list[str],
    ) -> tuple[LabelledFeatures, list[dict[str, Any]]]:
        """Return the good samples and their rows; what is wrong with others goes to ``lines``."""
        known = bad_rows_of(samples)
        bad_rows = known.copy()
        bad: set[int] = set()

        def note(index: int, problem: str) -> None:
            bad.add(index)
            bad_rows.report(str(rows[index].get("source", "")), problem)

        features_NF = self._features([row[self.modality] for row in rows], note)
        check_finite(torch.from_numpy(features_NF), f"{self.modality} {self.inputs}")
        bad_rows.check(len(rows) + known.bad)
        lines += bad_rows.lines
        good = [index for index in range(len(rows)) if index not in bad]
        index_of = class_indices(classes)
        truth_N = np.array([index_of[rows[index]["label"]] for index in good], np.int64)
        return LabelledFeatures(features_NF[good], truth_N), [rows[index] for index in good]

    def _features(self, samples: Sequence[Any], on_bad: OnBad) -> np.ndarray:
        """Return ``[N, F]`` in fp32; the row of a bad sample is zero."""
        if self.inputs == "embeddings":
            return self.model.embed(
                self.modality, samples, cache=self.cache, workers=self.workers, on_bad=on_bad
            ).numpy()
        tower = self.model.tower(self.modality)
        encoder = tower.encoder
        result_NF = np.zeros((len(samples), encoder.out_dim), np.float32)
        if self.cache and tower.encoder_frozen:
            table = self.cache.table(
                tower.spec.encoder, encoder, samples, on_bad=on_bad, workers=self.workers
            )
            result_NF[table.good] = table[table.good.nonzero()[0]].numpy()
            return result_NF
        check_foreign(tower.spec.encoder, encoder, samples, workers=self.workers)
        at_a_time, everything = fitting_batch_size(encoder), range(len(samples))
        for batch in uniform_batches(
            samples, everything, encoder.preprocess, batch_size=at_a_time, workers=self.workers
        ):
            for index, problem in batch.problems.items():
                on_bad(index, problem)
            if batch.indices:
                result_NF[batch.indices] = run_encoder(encoder, batch, rows=at_a_time)
        return result_NF


def _classes(samples: Samples, split: str) -> Sequence[str]:
    classes: Sequence[str] = getattr(samples, "classes", ())
    if not classes:
        msg = f"split {split!r} has no classes; a probe needs data with a label in each row"
        raise DataError(msg)
    return classes


def _labelled_rows(
    samples: Samples, modality: str, classes: Sequence[str], split: str
) -> list[dict[str, Any]]:
    """Return the first row of each distinct sample."""
    rows = rows_of(samples)
    if not rows:
        msg = f"split {split!r} is empty; there is nothing to learn from or to judge"
        raise DataError(msg)
    known = {*classes}
    first: list[dict[str, Any]] = []
    for indices in distinct_rows(rows, modality).several():
        row = rows[indices[0]]
        labels = {rows[index].get("label", "") for index in indices}
        if flaw := _flaw_of(labels, known):
            msg = f"{row.get('source') or f'row {indices[0]}'}: {flaw}"
            raise DataError(msg)
        first.append(row)
    return first


def _flaw_of(labels: set[str], classes: set[str]) -> str:
    if not all(labels):
        return "has no label; a probe needs one for each sample"
    if unknown := sorted(labels - classes):
        return f"label {unknown[0]!r} is not one of the classes"
    if len(labels) > 1:
        both = " and ".join(map(repr, sorted(labels)[:2]))
        return f"is of the classes {both}; a probe needs one class for each sample"
    return ""


def _check_classes(
    train: LabelledFeatures,
    test: LabelledFeatures,
    classes: Sequence[str],
    train_split: str,
    split: str,
) -> None:
    """Insist on two classes, and on training samples of every class that is judged."""
    known: set[int] = set(train.truth_N.tolist())
    asked: list[int] = test.truth_N.tolist()
    if lacking := sorted({*asked} - known):
        others = f", and so have {len(lacking) - 1} other classes" if len(lacking) > 1 else ""
        msg = (
            f"class {classes[lacking[0]]!r} has {asked.count(lacking[0])} samples in split "
            f"{split!r} but none in split {train_split!r}{others}; a probe needs some of each"
        )
        raise DataError(msg)
    if len(known) < 2:
        msg = f"split {train_split!r} has samples of one class; a probe needs two or more"
        raise DataError(msg)
