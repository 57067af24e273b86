"""Refuse to measure a model on what it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from contrastive.config.garbage import return_freed_memory
from contrastive.data.columns import has_all, ids_of, some_rows, values_of
from contrastive.data.content_hash import short_keys
from contrastive.distributed.shared_hashing import share_hashing
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contrastive.spec import Shared

    Seen = Mapping[str, Tensor]

DROP = ", or leave the shared rows out: evaluation.shared: drop (to measure: --shared drop)"
UNHASHED = ("text",)  # the same words may well stand in two splits; the same image may not


def _check_held_out(
    seen: Seen, rows: Sequence[dict[str, Any]], split: str, of: str, *, remedy: str = ""
) -> None:
    """Refuse to measure a model on nothing, or on what it was trained on.

    Raises:
        DataError: the split is empty, or shares samples with training; names the first.
    """
    name = _named(split)
    if not rows:
        msg = f"{name} is empty; measure a split that has rows"
        raise DataError(msg)
    for modality, hits in _shared(seen, rows).items():
        if hits:
            source = rows[hits[0]].get("source", f"row {hits[0]}")
            msg = (
                f"{name} shares {len(hits)} of {len(rows)} {modality} rows with {of}, the first "
                f"is {source}; measure on a split that it has not seen"
            )
            raise DataError(msg + (remedy if len(hits) < len(rows) else ""))


def held_out_rows(
    seen: Seen,
    rows: Sequence[dict[str, Any]],
    split: str,
    shared: Shared,
    *,
    of: str = "the training split",
) -> Sequence[dict[str, Any]]:
    """Return the rows that a model can be measured on: all, or those that training does not share.

    Args:
        seen: hashes of the samples that it was trained on, by modality, as ``model.seen``.
        rows: what it is to be measured on.
        split: what to call them.
        shared: ``refuse`` rows that are shared, or ``drop`` them and the others of their groups.
        of: what to call what it was trained on.

    Raises:
        DataError: none are left, or some are shared and refused.
    """
    if shared == "refuse":
        _check_held_out(seen, rows, split, of, remedy=DROP)
        return rows
    hits = np.unique([i for found in _shared(seen, rows).values() for i in found]).astype(np.int64)
    ids_N = ids_of(rows)
    kept = some_rows(rows, (~np.isin(ids_N, ids_N[hits])).nonzero()[0])
    if not len(kept):
        if not len(hits) or len(hits) == len(rows):
            _check_held_out(seen, rows, split, of)
        msg = (
            f"{_named(split)} has no group of which {of} shares no row, so that none is left; "
            "measure on a split that it has not seen"
        )
        raise DataError(msg)
    return kept


def left_out(dropped: int, of: int, what: str = "rows") -> list[str]:
    """Return a line that says how many rows ``held_out_rows`` dropped, if any."""
    if not dropped:
        return []
    theirs = "their image, or that of another row of their group" if what == "rows" else "an image"
    return [f"{dropped} of {of} {what} are left out: the training split has {theirs}"]


def _shared(seen: Seen, rows: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the rows that a model was trained on, by modality."""
    hits: dict[str, list[int]] = {}
    for modality, keys in seen.items():
        having = np.arange(len(rows))
        if not has_all(rows, modality):
            having = np.array([i for i, row in enumerate(rows) if modality in row], np.int64)
        none: list[Any] = []
        samples = values_of(some_rows(rows, having), modality) if len(having) else none
        share_hashing(samples, modality)
        known_N = np.isin(short_keys(samples, modality), keys.numpy())
        hits[modality] = having[known_N].tolist()
    return hits


def _named(split: str) -> str:
    return f"split {split!r}" if split else "this data"


def content_keys(
    rows: Sequence[dict[str, Any]], modalities: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return a hash of each sample of each modality but text, ``[N]``; 0 for one without."""
    keys: dict[str, np.ndarray] = {}
    for modality in (modality for modality in modalities if modality not in UNHASHED):
        samples = values_of(rows, modality)
        share_hashing(samples, modality)
        keys[modality] = short_keys(samples, modality)
    return_freed_memory()
    return keys


def seen_samples(keys: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return what a model keeps of ``content_keys``: sorted hashes, ``[n]`` int64."""
    found = {modality: _distinct(np.sort(each[each != 0])) for modality, each in keys.items()}
    return {modality: torch.from_numpy(each) for modality, each in found.items()}


def _distinct(sorted_N: np.ndarray) -> np.ndarray:
    """Return what is sorted without repetitions; np.unique takes several times the memory."""
    is_new = np.ones(len(sorted_N), np.bool_)
    is_new[1:] = sorted_N[1:] != sorted_N[:-1]
    return sorted_N[is_new]


def _several_times(keys_N: np.ndarray) -> np.ndarray:
    """Return the places, ascending, of keys that stand more than once; without zeros."""
    sorted_N = np.sort(keys_N)
    again = _distinct(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])
    del sorted_N
    return np.isin(keys_N, again[again != 0]).nonzero()[0]


def copies_in(rows: Sequence[dict[str, Any]], keys: dict[str, np.ndarray]) -> list[str]:
    """Return a line for each modality in which samples of equal content have different ids."""
    lines: list[str] = []
    ids_N = ids_of(rows)
    for modality, each in keys.items():
        alike = _several_times(each)
        _, first, which = np.unique(each[alike], return_index=True, return_inverse=True)
        first_A = alike[first[which]]
        is_copy = ids_N[first_A] != ids_N[alike]
        copies = alike[is_copy]
        if len(copies):
            pair = int(first_A[is_copy][0]), int(copies[0])
            one, other = (rows[i].get("source", f"row {i}") for i in pair)
            lines.append(
                f"{len(copies)} of {len(rows)} {modality} rows are copies of others with another "
                f"id, which makes them negatives of each other: {one} and {other} are equal; a "
                "column of groups gives copies one id, or for image-folder data.group_by: content"
            )
    return lines
