"""What does not change in a run and its log should know: batch, loss, captions, what is shared."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, cast

import numpy as np

from contrastive.data.columns import ids_of, in_tuples, values_of
from contrastive.data.content_hash import short_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from contrastive.data.samples import Sample
    from contrastive.reporting.run_log import CaptionFacts, SharedFacts


def caption_facts(rows: Sequence[Sample], batch: int, *, read: bool = True) -> CaptionFacts:
    """Return how captions and ids relate; numbers about a batch are expected values.

    Captions that no tower reads cannot be negatives.
    """
    _, group_sizes = np.unique(ids_of(rows), return_counts=True)
    per_caption = _at_several_ids(rows) if read else {}
    others, met, duplicated = max(1, len(rows) - 1), 0.0, 0
    most, example = 0, ""
    for text, ids in per_caption.items():
        if len(ids) == 1:
            continue
        total = ids.total()
        duplicated += total
        if total > most:
            most, example = total, text
        for count in ids.values():
            share = (total - count) / others
            met += count * (1 - (1 - share) ** (batch - 1))
    sizes, counts = np.unique(group_sizes, return_counts=True)
    least = np.log1p((batch - 1) * (sizes - 1) / others)
    floor = float((counts * sizes * least).sum())
    return {
        "rows": len(rows),
        "groups": len(group_sizes),
        "duplicated": duplicated,
        "met": met / len(rows),
        "example": example[:60],
        "floor": floor / len(rows),
    }


def shared_facts(
    training: Sequence[Sample], held_out: Sequence[Sample], seen: Mapping[str, Tensor]
) -> SharedFacts:
    """Return how many groups of a held-out split training has too.

    A group is known if a sample of it was ``seen`` (by the hash of its content), or if two of its
    captions stand in training at one group, the same, and at no other: then it is that group's
    image, saved anew. One caption, such as a template with the name of a class, says nothing.
    """
    captions: dict[int, set[str]] = defaultdict(set)
    for group, text in _captions(held_out):
        captions[group].add(_words(text))
    groups_N = ids_of(held_out)
    by_sample: set[int] = set()
    for modality, keys in seen.items():
        is_seen_N = np.isin(short_keys(values_of(held_out, modality), modality), keys.numpy())
        by_sample |= {*cast("list[int]", groups_N[is_seen_N].tolist())}
    wanted = {text for texts in captions.values() for text in texts}
    ids_by_text: dict[str, set[int]] = defaultdict(set)
    for group, text in _captions(training):
        if (words := _words(text)) in wanted:
            ids_by_text[words].add(group)
    by_captions: set[int] = set()
    for group, texts in captions.items():
        alone = (ids_by_text[text] for text in texts if len(ids_by_text.get(text, ())) == 1)
        if max(Counter(one for ids in alone for one in ids).values(), default=0) >= 2:
            by_captions.add(group)
    known = by_sample | by_captions
    first = ""
    if known:
        row = held_out[int((groups_N == min(known)).argmax())]
        first = str(row.get("source", f"id {min(known)}"))
    return {
        "groups": len(np.unique(groups_N)),
        "known": len(known),
        "by_sample": len(by_sample),
        "first": first,
    }


def _captions(rows: Sequence[Sample]) -> Iterator[tuple[int, str]]:
    """Yield the id and the caption of each row that has one."""
    for part in in_tuples(rows, ("id", "text")):
        yield from ((int(group), text) for group, text in part if isinstance(text, str))


def _at_several_ids(rows: Sequence[Sample]) -> dict[str, Counter[int]]:
    """Return how often captions that stand at several ids stand at each, and maybe some others.

    A dict of all captions would take more memory than the rows do.
    """
    codes = np.fromiter((hash(_words(text)) for _, text in _captions(rows)), np.int64)
    ids = np.fromiter((group for group, _ in _captions(rows)), np.int64)
    order = np.lexsort((ids, codes))
    ordered, group = codes[order], ids[order]
    differs = (ordered[1:] == ordered[:-1]) & (group[1:] != group[:-1])
    several = np.isin(codes, ordered[1:][differs])
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for (at, text), is_one in zip(_captions(rows), several, strict=True):
        if is_one:
            found[_words(text)][at] += 1
    return found


def _words(text: str) -> str:
    return " ".join(text.casefold().split())
