"""Pretrained files: on disk or on the Hub, safetensors only, and errors of one line."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes

from contrastive.config.extras import require
from contrastive.config.local_files import check_regular, read_bounded
from contrastive.encoders.weight_folders import WeightFolder, copy_of, note_folder
from contrastive.errors import ContrastiveError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Sequence

    from torch import nn

WEIGHTS = "model.safetensors"
# what a model consists of; neither pickles, nor code, nor the weights of other frameworks
FILES = (
    "config.json",
    "*.json",
    "*.txt",
    "*.model",
    "*.bpe",
    "*.codes",
    "*.spm",
    "*.tokenizer",
    "*.tiktoken",
    "*.jinja",
    WEIGHTS,
    "model-*.safetensors",
    f"*/{WEIGHTS}",
)
MAX_BYTES = 1 << 40  # of a file of weights
MAX_CONFIG = 16_000_000  # bytes
BY_WRITER = frozenset(
    ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
)
"""Fields of a config that say who wrote it and how, not what the model computes."""
COUNTER = "num_batches_tracked"  # of a BatchNorm, which it seldom reads
SHOWN = 3  # names in a message
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("module.", "_orig_mod.", "model.")  # of DDP, torch.compile, Lightning


def find_weights(
    who: str,
    name: str,
    revision: str | None = None,
    files: Sequence[str] = FILES,
    *,
    otherwise: str = "give a local folder as name",
) -> Path:
    """Return the local folder of a model, downloading it if need be.

    The Hub is asked once for the whole model: the loaders of the libraries ask for each file, and
    without a network they retry for minutes. ``HF_HOME`` and ``HF_HUB_OFFLINE`` are respected.

    Args:
        who: the component, for messages.
        name: a local folder, or a repository on the Hub.
        revision: branch, tag or commit on the Hub.
        files: patterns of what to download.
        otherwise: for messages, what to do instead of a download.

    Raises:
        WeightsError: it is neither on disk nor on the Hub; says how to supply it.

    Example:
        >>> find_weights("encoder", "photos").name  # a folder is taken as it is
        'photos'
    """
    folder = copy_of(name, revision) or _folder_of(who, name, revision, files, otherwise)
    note_folder(WeightFolder(name, revision, tuple(files), folder))
    return folder


def _folder_of(
    who: str, name: str, revision: str | None, files: Sequence[str], otherwise: str
) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        here = "" if folder.is_absolute() else f" (in {Path.cwd()})"
        msg = f"{who}: no such folder: {name}{here}; put the model there, or name another folder"
        raise WeightsError(msg)
    hub = require("huggingface_hub", extra="transformers")
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        at = f" --revision {revision}" if revision else ""
        named = ", ".join(file for file in files if "*" not in file)
        msg = (
            f"{who}: {name} ({named}) is neither in the Hugging Face cache nor on the "
            f"Hub ({_reason(error)}); run `hf download {name}{at}` on a connected machine and set "
            f"HF_HOME to its cache, or {otherwise}"
        )
        raise WeightsError(msg) from error


def file_hash(folder: Path) -> str:
    """Return the SHA-256 of all files of a model but its weights: what its preprocessing reads."""
    found = hashlib.sha256()
    patterns = [pattern for pattern in FILES if not pattern.endswith("safetensors")]
    for file in sorted({file for pattern in patterns for file in folder.rglob(pattern)}):
        content = read_bounded(file, MAX_BYTES)
        found.update(f"{file.relative_to(folder).as_posix()} {len(content)} ".encode() + content)
    return found.hexdigest()


def folder_config(folder: Path) -> str:
    """Return what the config in a model's folder says, as JSON, but for who wrote it and how.

    Example:
        >>> config = {"hidden_act": "gelu", "transformers_version": "5.1"}
        >>> _ = Path("config.json").write_text(json.dumps(config))
        >>> folder_config(Path("."))
        '{"hidden_act": "gelu"}'
    """
    return json.dumps(_without(config_in(folder), BY_WRITER), sort_keys=True)


def config_in(folder: Path) -> Any:
    """Return what the config in a model's folder says; None where it cannot be read.

    Example:
        >>> config_in(Path("no-such-folder"))  # None
    """
    try:
        return json.loads(read_bounded(folder / "config.json", MAX_CONFIG))
    except (OSError, ValueError, RecursionError):  # which the library that needs it tells
        return None


def _without(content: Any, names: frozenset[str]) -> Any:
    match content:
        case dict():
            items = cast("dict[str, Any]", content).items()
            return {key: _without(value, names) for key, value in items if key not in names}
        case list():
            return [_without(value, names) for value in cast("list[Any]", content)]
        case _:
            return content


@contextmanager
def loading_weights(who: str, what: str, folder: Path | None = None) -> Generator[None]:
    """Turn whatever a library says of files that it cannot load into one line.

    Raises:
        WeightsError: chained to its cause.

    Example:
        >>> try:
        ...     with loading_weights("encoder", "model.safetensors"):
        ...         raise OSError("the header is broken")  # as a library may
        ... except WeightsError as error:
        ...     print(error)
        encoder: cannot load model.safetensors: the header is broken
    """
    try:
        for file in {file for pattern in FILES for file in folder.glob(pattern)} if folder else ():
            check_regular(file)
        yield
    except (ContrastiveError, MemoryError):  # the latter says nothing of the files
        raise
    except Exception as error:  # damaged files make loaders raise many kinds of error
        place = f" from {folder}" if folder else ""
        msg = f"{who}: cannot load {what}{place}: {_reason(error)}"
        raise WeightsError(msg) from error


def how_to_convert(pickled: Path, to: Path) -> str:
    """Return what a user does with a pickle of weights, which we never load."""
    return (
        "which is never loaded; convert one that you trust: x = torch.load("
        f"{str(pickled)!r}, weights_only=True); safetensors.torch.save_file({{k: "
        f"v.clone().contiguous() for k, v in x.get('state_dict', x).items()}}, {str(to)!r})"
    )


def weight_files(folder: Path, who: str, loader: str = "transformers.AutoModel") -> list[Path]:
    """Return the safetensors files of a model's folder; ``loader`` is what reads its pickles.

    Raises:
        WeightsError: there are none; says how to get them.
    """
    pattern = "model*.safetensors"
    if files := sorted(folder.glob(pattern)) or sorted(folder.rglob(pattern)):
        return files
    here = repr(str(folder)) if any(folder.rglob("*.bin")) else "FOLDER"
    elsewhere = here == "FOLDER"
    first = "hf download NAME --local-dir FOLDER, and in Python " if elsewhere else ""
    load = f"{loader}.from_pretrained" if loader.startswith("transformers") else loader
    msg = (
        f"{who}: {folder} has no file model.safetensors, and pickles (pytorch_model.bin) are never "
        f"loaded; take a revision that has it, or convert a model that you trust: {first}"
        f"{load}({here}).save_pretrained({here}){', then give FOLDER as name' if elsewhere else ''}"
    )
    raise WeightsError(msg)


def load_strictly(who: str, model: nn.Module, path: Path, leave_out: Collection[str] = ()) -> None:
    """Load a safetensors file, every name and shape as in the model.

    Of weights that are tied, one name is enough; counters of batches, which files from before torch
    0.4.1 lack, stay.

    Args:
        who: the component, for messages.
        model: what the weights are for.
        path: the file.
        leave_out: names that may be in the file though the model has none of them.

    Raises:
        WeightsError: it cannot be read, or does not fit; names the tensors.
    """
    try:
        found = tensors_from_bytes(read_bounded(path.expanduser(), MAX_BYTES))
    except FileNotFoundError as error:
        msg = f"{who}: weights: {path}: no such file"
        raise WeightsError(msg) from error
    except (OSError, SafetensorError) as error:
        problem = f"not a readable safetensors file: {_reason(error)}"
        if path.suffix in PICKLES:
            problem = f"a pickle, {how_to_convert(path, path.with_suffix('.safetensors'))}"
        msg = f"{who}: weights: {path}: {problem}"
        raise WeightsError(msg) from error
    wanted = model.state_dict()
    for prefix in WRAPPERS:
        if all(k.startswith(prefix) and k.removeprefix(prefix) in wanted for k in found) and found:
            msg = f"{who}: weights: {path}: {begin_with(prefix)}"
            raise WeightsError(msg)
    found = {k: v for k, v in found.items() if k in wanted or k not in leave_out}
    filled = {wanted[k].data_ptr() for k in wanted.keys() & found.keys()}
    problems = {
        "lacks": sorted(
            k
            for k in wanted.keys() - found.keys()
            if wanted[k].data_ptr() not in filled and not k.endswith(COUNTER)
        ),
        "has unknown": sorted(found.keys() - wanted.keys()),
        "has other shapes of": sorted(
            k for k in wanted.keys() & found.keys() if wanted[k].shape != found[k].shape
        ),
    }
    if said := [f"{what} {_few(names)}" for what, names in problems.items() if names]:
        msg = f"{who}: weights: {path} is not of this model: it {'; it '.join(said)}"
        raise WeightsError(msg)
    model.load_state_dict(found, strict=False)


def begin_with(prefix: str) -> str:
    """Return what to say of weights that were saved in a wrapper.

    Example:
        >>> begin_with("module.").split(";")[0]
        "all names begin with 'module.', of what it was in"
    """
    return (
        f"all names begin with {prefix!r}, of what it was in; save it without: "
        f"{{k.removeprefix({prefix!r}): v for k, v in tensors.items()}}"
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _reason(error: Exception) -> str:
    """Return the first sentence of a message; libraries go on for a page."""
    said = re.split(r"\.\s|\n", str(error).strip())[0].strip(".: ")
    return f"no {said}" if isinstance(error, KeyError) and said else said or type(error).__name__
