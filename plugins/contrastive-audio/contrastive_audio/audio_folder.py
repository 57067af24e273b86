"""A folder of sounds with captions in a table beside them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from contrastive.interface import (
    CAPTION_TABLES,
    SPLIT_ALIASES,
    SPLITS,
    BadRows,
    DataError,
    FileIndex,
    RowList,
    UnknownSplit,
    cells_of,
    choose_columns,
    leaves_folder,
    name_list,
    quoted,
    read_table,
    readable_folder,
    split_of,
    text_problem,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrastive.interface import Sample, TableRecord
    from contrastive_audio import AudioFolder

COLUMNS = {
    "audio": ("audio", "file_name", "filename"),
    "text": ("text", "caption", "sentence"),
    "image": ("image",),
    "group": ("group", "group_id"),
    "label": ("label",),
    "split": ("split",),
}
FILES = ("audio", "image")


class Row(NamedTuple):
    """A record of the table."""

    source: str
    cells: dict[str, str]
    """By role."""
    group: str = ""
    split: str = ""
    """Empty if that cannot be known: then a problem is one of every split."""
    problem: str = ""
    """Why it is left out, if it is."""


def read(config: AudioFolder, split: str) -> RowList:
    """Read one split.

    Raises:
        DataError: see ``AudioFolder.build``.
    """
    folder = config.folder.expanduser()
    wanted = {name.strip() for name in split.split("+")}
    bad_rows = BadRows(budget=config.max_bad)
    ids: dict[str, int] = {}  # of the groups of all splits, so that they are the same in each
    labels: set[str] = set()
    samples: list[Sample] = []
    with readable_folder(folder):
        table = _table(folder, config.captions)
        columns, records = read_table(table)
        chosen = choose_columns(
            {role: getattr(config, f"{role}_column") for role in COLUMNS},
            table,
            columns,
            usual=COLUMNS,
            needed=("audio", "text"),
        )
        known = set[str]() if "split" in chosen else {*SPLITS}
        files = FileIndex(folder)
        rows = _rows(table.name, chosen, records, config.holdout, files)
        for row in _checked(rows, files):
            id_ = ids.setdefault(row.group, len(ids))
            known.add(row.split)
            labels.add(row.cells.get("label", ""))
            if row.split and row.split not in wanted:
                continue
            if row.problem:
                bad_rows.report(row.source, row.problem)
            else:
                samples.append(_sample(row, folder, id_))
    known.discard("")
    if known and (unknown := wanted - known):
        there = name_list(sorted(known))
        msg = f"{table}: no split {name_list(sorted(unknown))}; there are: {there}"
        raise UnknownSplit(msg)
    bad_rows.check(len(samples) + bad_rows.bad)
    if not samples:
        why = f": {bad_rows.lines[0]}" if bad_rows.lines else ""
        msg = f"{table}: no samples in split {quoted(split)}{why}"
        raise DataError(msg)
    return RowList(samples, bad_rows, tuple(sorted(labels - {""})))


def _table(folder: Path, given: Path | None) -> Path:
    if given:
        return folder / given
    for name in CAPTION_TABLES:
        if (folder / name).is_file():
            return folder / name
    msg = f"{folder}: no captions; looked for {', '.join(CAPTION_TABLES)}"
    raise DataError(msg)


def _rows(
    name: str,
    chosen: dict[str, str],
    records: Iterator[TableRecord],
    holdout: float,
    files: FileIndex,
) -> Iterator[Row]:
    for record in records:
        cells, problem = cells_of(record, chosen, needed=("audio", "text", "split"))
        for role in FILES:
            if cells.get(role):
                cells[role] = files.name_of(str(PurePosixPath(cells[role])))
        group = cells.get("group") or cells["audio"]
        split = cells.get("split", split_of(group, holdout) if group else "")
        usual = split.lower()  # in a table, Train is train
        split = SPLIT_ALIASES.get(usual, usual if usual in SPLITS else split)
        yield Row(f"{name}:{record.line}", cells, group, split, problem)


def _checked(rows: Iterator[Row], files: FileIndex) -> Iterator[Row]:
    """Say of each row what is wrong with it; a sound in two splits is, where it comes again."""
    homes: dict[str, str] = {}
    for row in rows:
        audio = row.cells["audio"]
        problem = row.problem or _problem(row.cells, files)
        if not problem and (home := homes.setdefault(audio, row.split)) != row.split:
            problem = f"audio {quoted(audio)} is in split {home} already"
        yield row._replace(problem=problem)


def _problem(cells: dict[str, str], files: FileIndex) -> str:
    for role in cells.keys() & {"text", *FILES}:
        if flaw := text_problem(cells[role]):
            return f"the {role} {flaw}"
    for role in FILES:
        if (path := cells.get(role)) is None:
            continue
        if leaves_folder(path):
            return f"{role} {quoted(path)} is outside the folder"
        if path not in files:
            return f"{role} {quoted(path)} is not in {files.folder}"
    return ""


def _sample(row: Row, folder: Path, id_: int) -> Sample:
    sample: Sample = {role: folder / row.cells[role] for role in FILES if role in row.cells}
    sample |= {"text": row.cells["text"], "id": id_, "source": row.source}
    return sample | {"label": row.cells["label"]} if "label" in row.cells else sample
