"""Whether the other program gives the model's embeddings: asked of it in a process of its own.

::

    verify.json              what was compared, with which versions, and the largest differences
    verify.py                embeds the samples again and compares, without this package
    verify/                  the images, and the model's embeddings in a safetensors file

The reference is computed on exactly these files, in fp32 on the CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from contrastive.console import say
from contrastive.data.columns import keys_in, values_of
from contrastive.data.images import StoredImage, open_image
from contrastive.data.samples import rows_of
from contrastive.encoders.token_encoder import TokenEncoder
from contrastive.errors import BadSample, DataError, SpecError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from contrastive.data.samples import Samples
    from contrastive.exporters.targets import Target
    from contrastive.model.model import ContrastiveModel

ABOUT_VERIFICATION = "verify.json"
SCRIPT = "verify.py"
KEPT = "verify"
SAMPLES = 32
SIDE = 512  # pixels of the longer side of a stored image: a folder of some megabytes
SIZES = ((97, 64), (50, 131), (203, 100), (111, 75))
"""Of images that are compared besides, since all of the data may have one shape."""
LONG = 700  # words of the text that is longer than any tower reads
SOME_WORDS = ("a", "photo", "of", "the", "small", "red", "square", "and", "two", "blue", "circles")
TEMPLATES = Path(__file__).parent / "templates"
WITHOUT_US = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "contrastive":
            raise ModuleNotFoundError("contrastive is not to be imported here")

sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script in an environment in which this package cannot be imported."""


@dataclass(frozen=True)
class Verified:
    """What the other program's embeddings differ by."""

    differences: dict[str, float]
    samples: dict[str, int]


def write_verification(
    model: ContrastiveModel,
    folder: Path,
    target: Target,
    towers: Sequence[str],
    samples: Samples | None,
) -> None:
    """Write samples, the model's embeddings of them, and the script that compares.

    Args:
        model: in eval mode, fp32, on the CPU.
        folder: that of the export.
        target: whose template of ``verify.py`` is taken.
        towers: the modalities.
        samples: a built dataset; None generates some.

    Raises:
        SpecError: samples of a modality cannot be stored.
        DataError: the data have none that can be read.
    """
    kept = folder / KEPT
    kept.mkdir()
    rows = None if samples is None else rows_of(samples, needs_ids=False)
    about: dict[str, Any] = {"format": 1, "tolerance": target.tolerance, "samples": {}}
    about["held_out"] = samples is not None
    embeddings: dict[str, Any] = {}
    for modality in towers:
        if rows is None or modality not in keys_in(rows):
            if rows is not None:
                say(f"the data have no {modality}, so generated samples of it are compared")
            given = _generated(model, modality)
        else:
            given = _of_rows(rows, modality)
        found = _stored(given, modality, folder)
        about["samples"][modality], embeddings[modality] = _embedded(model, modality, found, folder)
    save_file(embeddings, kept / "embeddings.safetensors")
    _write_json(folder / ABOUT_VERIFICATION, about)
    parts = ("verify.py", f"{target.module}.py")
    script, embed = ((TEMPLATES / name).read_text("utf-8") for name in parts)
    end = 'if __name__ == "__main__":\n    sys.exit(run())\n'
    (folder / SCRIPT).write_text(f"{script}\n\n{embed}\n\n{end}", encoding="utf-8")


def verified(folder: Path, to: str, target: Target, *, keep_samples: bool) -> Verified:
    """Compare in a process without this package, and write down what it found.

    Raises:
        WeightsError: the embeddings are not the same; names the modality and the difference.
    """
    place = folder / ABOUT_VERIFICATION
    about: dict[str, Any] = json.loads(place.read_text("utf-8"))
    found = compared(folder, without_us=not target.ours)
    for modality, difference in found.items():
        if not difference <= target.tolerance:  # NaN neither
            msg = (
                f"towers.{modality}: {to} gives embeddings that differ by {difference:.2g} from "
                f"the model's, which is more than {target.tolerance:g}; nothing was written"
            )
            raise WeightsError(msg)
    about["differences"] = found
    about["versions"] = _versions(target.packages)
    counts = {modality: len(several) for modality, several in about["samples"].items()}
    if not keep_samples:
        about["samples"] = counts
        shutil.rmtree(folder / KEPT)
        (folder / SCRIPT).unlink()
    _write_json(place, about)
    return Verified(found, counts)


def compared(folder: Path, *, without_us: bool = True) -> dict[str, float]:
    """Run a folder's ``verify.py`` and return the largest difference by modality.

    Args:
        folder: the export.
        without_us: this package cannot be imported there.

    Raises:
        WeightsError: the program cannot load the folder, or does not embed; says why.
    """
    run = subprocess.run(  # noqa: S603 - our own interpreter and script
        [sys.executable, *(("-c", WITHOUT_US) if without_us else ()), folder / SCRIPT, "--json"],
        env=_environment(folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    lines = run.stdout.splitlines()
    try:
        found = cast("dict[str, float]", json.loads(lines[-1])["differences"])
    except (IndexError, ValueError, KeyError, TypeError):
        said = (run.stderr.strip().splitlines() or [f"it ended with {run.returncode}"])[-1]
        msg = f"the program that is to open the export fails: {said}; nothing was written"
        raise WeightsError(msg) from None
    return found


def _environment(folder: Path) -> dict[str, str]:
    """Return what a process needs that embeds on the CPU, and has no Hub and none of its cache."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    offline["HF_HUB_CACHE"] = str(folder / "no-cache")
    python = {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
    return dict(os.environ) | offline | python


def _of_rows(rows: Sequence[dict[str, Any]], modality: str) -> Iterator[Any]:
    """Yield samples of data, spread over all rows, each once."""
    values = values_of(rows, modality)
    order = np.linspace(0, len(rows) - 1, min(len(rows), 8 * SAMPLES)).astype(int)
    known: set[Any] = set()
    for i in [*order.tolist()] if len(rows) else []:
        value = values[i]
        if isinstance(value, (str, Path, StoredImage)):
            if value in known:
                continue
            known.add(value)
        yield value


def _generated(model: ContrastiveModel, modality: str) -> Iterator[Any]:
    """Yield made-up samples: images of several shapes, texts of the model's words."""
    if modality == "image":
        for i in range(SAMPLES):
            yield _noise(i, (48 + 37 * i % 400, 48 + 61 * i % 400))
    else:
        encoder = model.tower(modality).encoder
        known = encoder.words() if isinstance(encoder, TokenEncoder) else []
        words = [*known, *SOME_WORDS]
        for i in range(SAMPLES):
            yield " ".join(words[(3 * i + 5 * k) % len(words)] for k in range(1 + i % 11))


def _stored(samples: Iterator[Any], modality: str, folder: Path) -> list[str]:
    """Store samples and some odd ones; return texts, or the paths of images in the folder.

    Raises:
        SpecError: a modality has no form in which they are stored.
        DataError: none can be read.
    """
    if modality not in ("image", "text"):
        msg = f"towers.{modality}: samples of {modality} cannot be compared; export image or text"
        raise SpecError(msg)
    found: list[str] = []
    problem = "there are no rows"
    for sample in samples:
        if len(found) == SAMPLES:
            break
        try:
            if modality == "text":
                if isinstance(sample, str) and sample.strip():
                    found.append(sample.encode(errors="replace").decode())
                continue
            image = open_image(sample)
            image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
            name = f"{KEPT}/{len(found):02}.png"
            image.save(folder / name)
            found.append(name)
        except BadSample as error:
            problem = str(error)
            say(f"{problem}; not compared")
    if not found:
        msg = f"{modality}: no sample can be compared: {problem}; give other data"
        raise DataError(msg)
    if modality == "text":
        return [*found, *_odd_texts(found)]
    for size in SIZES:
        name = f"{KEPT}/{len(found):02}.png"
        _noise(len(found), size).save(folder / name)
        found.append(name)
    return found


def _odd_texts(found: Sequence[str]) -> list[str]:
    """Return texts of what data may lack, and one that is longer than what is read."""
    words = " ".join(found).split()
    return [
        found[0].upper(),
        f"  {found[0]},\t{found[-1]}! (3-4, don\u2019t) ",
        f"{found[-1]} \u00fcn\u00ef \u6771\u4eac \u0431\u0435\u043b\u044b\u0439 \U0001f600",
        " ".join((words * (LONG // len(words) + 1))[:LONG]),
    ]


def _noise(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a made-up image: some soft patches."""
    shape = (2 + number % 7, 2 + number % 5, 3)
    patches = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def _embedded(
    model: ContrastiveModel, modality: str, found: list[str], folder: Path
) -> tuple[list[str], Tensor]:
    """Return the stored samples that the model can use, and its embeddings of them.

    Raises:
        DataError: it can use none.
    """
    inputs = [folder / name for name in found] if modality == "image" else found
    problems: dict[int, str] = {}
    rows_BD = model.embed(modality, inputs, on_bad=problems.__setitem__)
    for problem in problems.values():
        say(f"{problem}; not compared")
    good = [i for i in range(len(found)) if i not in problems]
    if not good:
        msg = f"{modality}: no sample can be compared: {problems[0]}; give other data"
        raise DataError(msg)
    return [found[i] for i in good], rows_BD[good]


def _versions(packages: Sequence[str]) -> Mapping[str, str]:
    """Return the versions of what embedded."""
    found: dict[str, str] = {}
    for name in (*packages, "torch", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write_json(place: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    place.write_text(f"{text}\n", encoding="utf-8")
