"""Starts: processor time of a process that validates a spec, and of one that answers a query."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.peers import step
from benchmarks.peers.arms import Bar, Work, processor_seconds
from benchmarks.peers.inputs import image_folder
from benchmarks.peers.sizes import sizes

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = 64
SIZES = sizes()
QUERY = "a red ball"
SPEC = """\
model:
  embed_dim: {embed_dim}
  towers:
    image: {{encoder: {{type: hf-dual-image, name: {clip}}}, head: {{type: identity}}}}
    text: {{encoder: {{type: hf-dual-text, name: {clip}}}, head: {{type: identity}}}}
  loss: {{type: infonce}}
data: {{type: image-folder, folder: {images}}}
training: {{batch_size: 32, epochs: 1}}
evaluation: {{split: null}}
"""
ENCODE = """\
import sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
images = model.encode(sys.argv[3:])
print((model.encode([sys.argv[2]]) @ images.T).argmax())
"""


def spec_and_model(folder: Path) -> None:
    """Write a spec, and train its model for an epoch."""
    values = {"embed_dim": SIZES.embed_dim, "clip": folder / "clip", "images": folder / "images"}
    (folder / "start.yaml").write_text(SPEC.format(**values))
    command = [sys.executable, "-m", "contrastive", "train", folder / "start.yaml"]
    subprocess.run([*command, "-o", folder / "started"], check=True)


def process(*arguments: object) -> float:
    """Return the processor time of a process of Python."""
    before = processor_seconds()
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)
    return processor_seconds() - before


def validate(folder: Path) -> float:
    return process("-m", "contrastive", "validate", folder / "start.yaml")


def import_open_clip(_: Path) -> float:
    import open_clip  # noqa: F401 -- told as missing before a process is

    return process("-c", "import open_clip")


def search(folder: Path) -> float:
    where = ("--model", folder / "started", "--images", folder / "images")
    return process("-m", "contrastive", "search", QUERY, *where)


def encode(folder: Path) -> float:
    import sentence_transformers  # noqa: F401

    images = sorted((folder / "images").glob("*.jpg"))
    return process("-c", ENCODE, folder / "clip", QUERY, *images)


WORK = Work(
    title=f"start of a process: a spec validated, {IMAGES} images searched once",
    unit="s of processor time",
    arms={
        "contrastive validate": validate,
        "import open_clip": import_open_clip,
        "contrastive search": search,
        "sentence-transformers encode": encode,
    },
    bars=(
        Bar("import open_clip", 0.3, ours="contrastive validate"),
        Bar("sentence-transformers encode", 0.3, ours="contrastive search"),
    ),
    inputs=(image_folder(IMAGES), step.CLIP, spec_and_model),
)
