"""Runs, models and caches of a stranger who wants code to run; ``audited.py`` opens them all.

The code would write its name into ``RAN`` of the working folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle  # noqa: TID251  (as a stranger's program does)
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[Path], object]

RAN = "ran.txt"
CODE = f"""open({RAN!r}, "a").write(__name__ + "\\n")
class X:
    from_pretrained = load = classmethod(lambda cls, *args, **kwargs: cls())
"""
SHADOWS = ("evil", "sitecustomize", "json", "torch", "numpy", "multiprocessing", "conftest")
"""Modules beside a spec: none may be imported, nor be taken for another of its name."""
MODEL: dict[str, Any] = {
    "embed_dim": 8,
    "towers": {
        "image": {
            "encoder": {"type": "resnet", "layers": [1, 1, 1, 1], "width": 4, "image_size": 32},
            "head": {"type": "linear"},
            "frozen": "encoder",
        },
        "text": {
            "encoder": {"type": "cbow", "width": 8, "buckets": 64},
            "head": {"type": "linear"},
        },
    },
    "loss": {"type": "queue", "size": 8, "loss": {"type": "infonce"}},
}
IMAGE, TEXT = ("model", "towers", "image"), ("model", "towers", "text")
COMPONENTS = {
    "image_encoder": (*IMAGE, "encoder"),
    "text_encoder": (*TEXT, "encoder"),
    "head": (*IMAGE, "head"),
    "loss": ("model", "loss"),
    "inner_loss": ("model", "loss", "loss"),
    "dataset": ("data",),
}
"""Where a run's spec has a component."""
FOREIGN = {
    "hf_text": (TEXT, "hf-text", "bert"),
    "hf_text_unknown": (TEXT, "hf-text", "evil"),
    "hf_dual_text": (TEXT, "hf-dual-text", "clip"),
    "hf_dual_text_unknown": (TEXT, "hf-dual-text", "evil"),
    "hf_image": (IMAGE, "hf-image", "vit"),
    "hf_image_unknown": (IMAGE, "hf-image", "evil"),
    "hf_dual_image": (IMAGE, "hf-dual-image", "clip"),
    "timm": (IMAGE, "timm", "vit"),
    "sentences": (TEXT, "sentence-transformers", "bert"),
    "sentences_unknown": (TEXT, "sentence-transformers", "evil"),
    "open_clip": (TEXT, "open-clip-text", "bert"),
    "open_clip_backbone": (TEXT, "open-clip-text", "evil"),
    "open_clip_image": (IMAGE, "open-clip-image", "bert"),
}
"""Encoders that read folders of other libraries: where, their name, and whose folder."""


class Pickled:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the code."""
        return exec, (f"open({RAN!r}, 'a').write('a pickle\\n')",)


PICKLE = pickle.dumps(Pickled())


def run_spec(data: Path) -> dict[str, Any]:
    """Return the spec of the run that strangers change."""
    return {
        "model": MODEL,
        "data": {"type": "flickr30k", "folder": str(data)},
        "training": {"epochs": 1, "batch_size": 8, "workers": 0, "checkpoint_every": 1},
    }


def seal(folder: Path) -> None:
    """Let the manifest fit, as a stranger can."""
    files = {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.iterdir()
        if path.is_file() and path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 2, "files": files}))


def saved(run: Path) -> list[Path]:
    """Return the folders of a run that hold a model."""
    return [path.parent for path in run.rglob("manifest.json")]


def with_json(file: str, change: Callable[[Any], object]) -> Change:
    """Return a change of a JSON file of each model; what it returns, if anything, takes its place.

    A part that a model does not have stays.
    """

    def work(run: Path) -> None:
        for folder in saved(run):
            if (path := folder / file).exists():
                data = json.loads(path.read_text())
                path.write_text(json.dumps(change(data) or data))
                seal(folder)

    return work


def with_part(place: tuple[str, ...], value: dict[str, Any]) -> Change:
    """Return a change of a component's fields in both specs."""

    def put(data: Any) -> None:
        keys = place if "model" in data else place[1:]
        for key in keys if place[0] == "model" or "model" in data else ():
            data = data[key]
        if keys:
            data.update(value)

    def work(run: Path) -> None:
        with_json("run.json", put)(run)
        with_json("spec.json", put)(run)

    return work


def with_file(name: str, content: bytes) -> Change:
    """Return a change that puts a file into each model, and its manifest."""

    def work(run: Path) -> None:
        for folder in saved(run):
            if name.endswith((".safetensors", ".json")) and not (folder / name).exists():
                continue
            (folder / name).write_bytes(content)
            seal(folder)

    return work


def with_code(folder: Path) -> None:
    """Put modules and metadata of a package into a folder."""
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(CODE)
    (folder / "evil.pth").write_text("import evil\n")
    info = folder / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: evil\nVersion: 1.0\n")
    kinds = ("encoders", "heads", "losses", "datasets", "pretrained")
    points = "".join(f"[contrastive.{kind}]\nevil = evil:X\nlinear = evil:X\n" for kind in kinds)
    (info / "entry_points.txt").write_text(points)


def with_pickles_beside(run: Path) -> None:
    """Put pickles where other libraries have them."""
    for folder in [run, *saved(run)]:
        for name in ("pytorch_model.bin", "model.pt", "optimizer.pt", "scaler.pkl", "state.npy"):
            (folder / name).write_bytes(PICKLE)


def with_manifest(change: Callable[[dict[str, Any]], object]) -> Change:
    """Return a change of what the manifests list."""

    def work(run: Path) -> None:
        for folder in saved(run):
            path = folder / "manifest.json"
            manifest = json.loads(path.read_text())
            change(manifest["files"])
            path.write_text(json.dumps(manifest))

    return work


def with_link(name: str, target: str) -> Change:
    """Return a change that makes a file a link, or a pipe if there is no target."""

    def work(run: Path) -> None:
        for folder in saved(run):
            (folder / name).unlink()
            if target:
                (folder / name).symlink_to(target)
            else:
                os.mkfifo(folder / name)

    return work


def foreign_folders(root: Path, models: Path) -> None:
    """Write models of other libraries that name code of their own wherever they can."""
    for base in ("bert", "clip", "vit"):
        about = json.loads((models / base / "config.json").read_text())
        foreign_folder(root / base, models / base, about, {})
    about = {"model_type": "evil", "architectures": ["X"]}
    foreign_folder(root / "evil", models / "bert", about, {"hf_model_name": str(root / "evil")})
    adapter = {"peft_type": "evil", "base_model_name_or_path": str(root / "evil")}
    (root / "evil" / "adapter_config.json").write_text(json.dumps(adapter))


def foreign_folder(
    folder: Path, model: Path, about: dict[str, Any], backbone: dict[str, Any]
) -> None:
    """Write one, with the tokenizer of a model."""
    folder.mkdir(parents=True)
    with_code(folder)
    for name in ("pytorch_model.bin", "open_clip_pytorch_model.bin"):
        (folder / name).write_bytes(PICKLE)
    kinds = ("Config", "Model", "ImageProcessor", "Processor", "FeatureExtractor")
    auto = {f"Auto{kind}": "evil.X" for kind in kinds} | {"AutoTokenizer": ["evil.X"] * 2}
    asked = {"auto_map": auto, "trust_remote_code": True, "code_revision": "main"}
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_bytes((model / name).read_bytes())
    texts = {"width": 8, "heads": 2, "layers": 1, "hf_tokenizer_name": str(folder)} | backbone
    clip = {
        "embed_dim": 8,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "patch_size": 8,
            "head_width": 16,
        },
        "text_cfg": texts | {"tokenizer_kwargs": {"trust_remote_code": True}},
    }
    parts = ("model", "tokenizer", "config")
    files: dict[str, Any] = {
        "config.json": about | asked | {"architecture": "evil.X"},
        "tokenizer_config.json": asked | {"tokenizer_class": "X"},
        "preprocessor_config.json": asked | {"image_processor_type": "X"},
        "processor_config.json": asked,
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "evil.X"}],
        "sentence_bert_config.json": {f"{part}_args": asked for part in parts},
        "config_sentence_transformers.json": asked | {"model_type": "evil.X"},
        "open_clip_config.json": {"model_cfg": clip, "preprocess_cfg": {}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def hostile_runs(foreign: Path) -> dict[str, Change]:
    """Return each kind of run by the name of its folder, which lies in ``theirs/``."""
    everything = {"type": "evil:X", "callback": "evil:X", "code": CODE}
    log = json.dumps(
        {"step": 1, "epoch": 0.1, "loss": 1.0, "run": everything, "finding": everything}
    )
    runs: dict[str, Change] = {}
    for name, place in COMPONENTS.items():
        runs[f"{name}_below"] = with_part(place, {"type": f"theirs.{name}_below.evil:X"})
        runs[f"{name}_beside"] = with_part(place, {"type": "evil:X"})
    for name, (tower, kind, base) in FOREIGN.items():
        folder = f"{'local-dir:' if kind.startswith(('timm', 'open')) else ''}{foreign / base}"
        drawn = {} if name.startswith("sentences") else {"pretrained": False}
        encoder = {"type": kind, "name": folder} | drawn
        runs[name] = with_part(tower, {"encoder": encoder, "frozen": "none"})
    for name in ("model", "seen", "optimizer", "random"):
        runs[f"pickled_{name}"] = with_file(f"{name}.safetensors", PICKLE)
    for name in ("spec", "run", "parts", "state"):
        runs[f"pickled_{name}"] = with_file(f"{name}.json", PICKLE)
    return runs | {
        "code_beside": lambda run: [with_code(folder) for folder in [run / "model"]],
        "code_listed": with_file("evil.py", CODE.encode()),
        "pickles_beside": with_pickles_beside,
        "escape": with_manifest(lambda files: files.update({"../../evil.py": files["parts.json"]})),
        "packages": with_json(
            "parts.json", lambda parts: parts.update(packages={"evil": "1", "--evil": "evil:X"})
        ),
        "components": with_json(
            "parts.json",
            lambda parts: parts.update(components={"head": {"linear": {"package": "evil:X"}}}),
        ),
        "sections": with_json(
            "run.json",
            lambda run: [run[name].update(everything) for name in ("training", "evaluation")][:0],
        ),
        "tags": lambda run: [
            (folder / "spec.json").write_text("!!python/object/apply:evil.X []") and seal(folder)
            for folder in saved(run)
        ],
        "log": lambda run: (run / "log.jsonl").write_text(f"{log}\n{PICKLE!r}\n"),
        "pipe": with_link("seen.safetensors", ""),
        "endless": with_link("parts.json", "/dev/zero"),
        "no_model": lambda run: [
            with_part(COMPONENTS["head"], {"type": "theirs.no_model.evil:X"})(run),
            (run / "model").rename(run / "gone"),
        ],
    }


def poison_cache(cache: Path) -> None:
    """Put pickles and code into a cache of features, and spoil its rows."""
    for number, store in enumerate(sorted((cache / "features").iterdir())):
        with_code(store)
        (store / ("features.bin" if number % 2 else "keys.bin")).write_bytes(PICKLE * 20)
        (store / "encoder.json").write_text(json.dumps({"type": "evil:X"}))
        for name in ("features.npy", "keys.pkl", "index.pt"):
            (store / name).write_bytes(PICKLE)


def parquet_with_code(path: Path) -> None:
    """Write a table whose metadata name code: a pickled extension type and a class to make."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": PICKLE,
    }
    about = {
        "info": {"features": {"image": {"_type": "evil.X"}, "caption": {"_type": "os.system"}}}
    }
    names = ("image", "caption", "negative_caption", "split", "filename")
    fields = [pa.field(name, pa.binary(), metadata=extension) for name in names]
    schema = pa.schema(fields, metadata={b"huggingface": json.dumps(about).encode()})
    columns = [pa.array([PICKLE, b"evil:X"], pa.binary()) for _ in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path)
