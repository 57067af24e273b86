"""What the files of a saved folder may hold, and how one is read that may be anybody's.

A file is looked at before it is opened (a pipe or a device has no end), its size before it is read,
and its content before it is used. Keys that this release does not know are left alone: a later one
may have added them.
"""

from __future__ import annotations

import json
import re
import stat
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from contrastive.config.mistakes import in_one_line
from contrastive.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

MODEL = frozenset({"spec.json", "parts.json", "model.safetensors", "seen.safetensors"})
"""The files that every saved model has."""
CHECKPOINT = MODEL | {"run.json", "state.json", "optimizer.safetensors", "random.safetensors"}
"""Those of a run's checkpoint, from which it goes on."""
CALIBRATION = "calibration.json"
"""What scores are worth (``scores``), where that was measured."""
BACKGROUND = "calibration.safetensors"
"""The background set of scores that are standardised."""
COPIES = "encoders"
"""The folder with copies of what encoders were loaded from (``weight_copies``)."""
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,120}"
_KINDS = "json|safetensors|txt|model|bpe|codes|spm|tokenizer|tiktoken|jinja"
NAME = re.compile(
    r"[A-Za-z0-9_-]+\.(json|safetensors)"
    rf"|{COPIES}/[0-9]{{1,3}}(/{_WORD}){{0,8}}/{_WORD}\.({_KINDS})"
)
"""What files are called; of others, nothing is read."""
PLACE = rf"^{COPIES}/[0-9]{{1,3}}(/{_WORD})?$"
"""Of a copy: a folder, or a file."""
MAX_JSON = 16_000_000  # bytes; a spec is a page, a manifest has a line for each of ten files
MAX_DEPTH = 50  # levels, as in a spec's YAML

Names = dict[str, str]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Shape(BaseModel):
    """What is relied on in a JSON file."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Listed(Shape):
    """A file, in the manifest."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Manifest(Shape):
    """``manifest.json``: every other file."""

    format: int = 1
    files: dict[str, Listed]


class CopyOf(Shape):
    """A copy of what an encoder asked for by ``name``, or of what its ``field`` names."""

    name: str | None = None
    revision: str | None = None
    field: str | None = None
    place: Annotated[str, Field(pattern=PLACE)]


class Parts(Shape):
    """``parts.json``: what the spec of a model does not say."""

    encoders: dict[str, Sha256]
    """By modality, the fingerprint of weights that are not saved, since the spec brings them."""
    configs: dict[str, Sha256] = {}
    """By modality, the hash of the config that came with those weights."""
    preprocess: dict[str, Sha256] = {}
    """By modality, the hash of what the preprocessing says of itself."""
    paths: dict[str, Names] = {}
    """By modality and field, the whole path of what the encoder names by a relative one."""
    beside: dict[str, Names] = {}
    """The same paths, from the saved folder."""
    data: Names = {}
    """By field, the whole path of what a run's data name by a relative one."""
    data_beside: Names = {}
    """The same paths, from the saved folder."""
    copies: dict[str, list[CopyOf]] = {}
    """By modality, where this folder has copies of what the encoder was loaded from."""
    packages: Names
    """Name and version of each package that the model needs."""
    components: dict[str, dict[str, Names]] = Field(default={}, validate_default=True)
    """By kind and name, the package of each component."""


Finite = Annotated[float, Field(allow_inf_nan=False)]


def _nothing_or_best(best: dict[str, float]) -> dict[str, float]:
    if best and best.keys() != {"step", "value"}:
        msg = "the best evaluation has a step and a value"
        raise ValueError(msg)
    return best


class State(Shape):
    """``state.json``: where a run is."""

    step: Annotated[int, Field(ge=0, lt=1 << 53)]
    rows: str
    torch: str
    device: str
    log_lines: Annotated[int, Field(ge=0)] | None = None
    measured: bool = True
    gradients: dict[str, float] = {}
    loss_scale: dict[str, Annotated[Finite, Field(ge=0)]] = {}
    best: Annotated[dict[str, Finite], AfterValidator(_nothing_or_best)] = {}
    ranks: Annotated[int, Field(ge=0)] = 0
    """0 where 0.1 wrote it, which did not note them."""
    fused: bool = False
    """Whether AdamW updates all weights in one pass; 0.1 did not."""


class Spec(Shape):
    """``spec.json``; ``stored_spec`` judges the rest."""

    towers: dict[str, Any]


class Run(Shape):
    """``run.json``; ``stored_spec`` judges the rest."""

    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


SHAPES: dict[str, type[Shape]] = {
    "parts.json": Parts,
    "state.json": State,
    "spec.json": Spec,
    "run.json": Run,
}


def check_file(path: Path, size: int | None = None, *, ours: bool = True) -> None:
    """Insist on a regular file, and on its size if that is known.

    A JSON file that is not ``ours``, such as a tokenizer, may be of any size.

    Raises:
        WeightsError: it is something else, of another size, or JSON of an absurd size.
        FileNotFoundError: it is not there.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        msg = f"{path}: is no regular file (but a folder, a pipe or a device); copy the folder anew"
        raise WeightsError(msg)
    if size is not None and about.st_size != size:
        msg = (
            f"{path}: damaged ({about.st_size:,} bytes, the manifest says {size:,}); copy it again"
        )
        raise WeightsError(msg)
    if ours and path.suffix == ".json" and about.st_size > MAX_JSON:
        msg = f"{path}: {about.st_size:,} bytes are too many (limit {MAX_JSON:,}); copy it again"
        raise WeightsError(msg)


def read_json(path: Path) -> Any:
    """Return the plain data of a JSON file, of the shape that its name stands for.

    Raises:
        WeightsError: it is too large, not JSON, nested too deeply or of another shape.
        OSError: it is not there, or cannot be read.
    """
    check_file(path)
    content = path.read_bytes()
    try:
        data = json.loads(content)
        _check_plain(data)
    except (ValueError, RecursionError) as error:
        msg = f"{path}: not a JSON file: {' '.join(str(error).split())}"
        raise WeightsError(msg) from None
    if shape := SHAPES.get(path.name):
        shaped(shape, data, path)
    return data


def shaped(shape: type[Shape], data: Any, path: Path) -> Any:
    """Return the data of a file as ``shape``.

    Raises:
        WeightsError: they are of another one; says where.
    """
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        problem = in_one_line(error.errors(include_url=False)[0])
        msg = f"{path}: cannot be read: {problem}; copy it again, or save the model anew"
        raise WeightsError(msg) from None


def _check_plain(data: Any) -> None:
    """Refuse what JSON can hold and no file of ours does."""
    level = [data]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*cast("dict[str, Any]", value).keys(), *value.values()]
            elif isinstance(value, list):
                inner += cast("list[Any]", value)
            elif isinstance(value, str):
                _check_text(value)
        if not inner:
            return
        level = inner
    msg = f"nested deeper than {MAX_DEPTH} levels"
    raise ValueError(msg)


def _check_text(text: str) -> None:
    if "\0" in text:
        msg = "a text has a NUL character"
        raise ValueError(msg)
    try:
        text.encode()
    except UnicodeEncodeError:
        msg = "a text has half of a character (a lone surrogate)"
        raise ValueError(msg) from None
