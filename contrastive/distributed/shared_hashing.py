"""Read files for their content hashes with other ranks, each its share.

What a rank has read it notes in the index of files, where the others of its machine find it. On
another machine they read it themselves, so that files that differ are still seen.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.data.column_kinds import FilePaths, StoredImages, Strings
from contrastive.data.columns import Values
from contrastive.data.content_hash import keys_of, sample_key
from contrastive.data.content_index import content_index
from contrastive.data.sample_forms import is_content
from contrastive.distributed.shared_work import shared_work
from contrastive.errors import BadSample

if TYPE_CHECKING:
    from collections.abc import Sequence


def share_hashing(samples: Sequence[Any], modality: str) -> None:
    """Read the files among ``samples`` that are not in the index, where ranks share the work.

    Raises:
        FailedRank: a rank has failed.
    """
    work = shared_work()
    if work.size == 1:
        return
    if isinstance(samples, Values):
        distinct, _ = samples.distinct()
        if isinstance(distinct.column, (FilePaths, StoredImages)):  # neighbours lie in one file
            own = np.array_split(distinct.rows_N, work.size)[work.ranks.rank]
            keys_of(Values(distinct.column, own), modality)
        if isinstance(distinct.column, (FilePaths, StoredImages, Strings)):
            samples = []
    paths = {
        sample
        for sample in {each for each in samples if isinstance(each, (str, Path))}
        if isinstance(sample, Path) or not is_content(sample, modality)
    }
    for path in work.own(sorted(paths, key=str)):
        with suppress(BadSample):  # which is told when it is encoded
            sample_key(path, modality)
    content_index().write()
    work.all_gather(f"reads files of {modality} samples", None)
