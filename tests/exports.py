"""What tests of exports share: models of the cells, and a verification without a process each."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from PIL import Image

from contrastive import ModelSpec, build_model
from contrastive.exporters.verification import SCRIPT, WITHOUT_US

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive import ContrastiveModel

HEADS: dict[str, dict[str, Any]] = {
    "identity": {"type": "identity"},
    "linear": {"type": "linear"},
    "mlp": {"type": "mlp", "hidden": 12},
    "residual mlp": {"type": "mlp", "residual": True},
}
ALL = (
    WITHOUT_US.rpartition("sys.argv = ")[0]
    + """
import contextlib, io, json
for script in sys.argv[1:]:
    sys.argv = [script, "--json"]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(script, run_name="__main__")
    except SystemExit:
        print(out.getvalue().splitlines()[-1])
    except Exception as error:
        print(json.dumps({"error": repr(error)}))
print(json.dumps(sorted(name for name in sys.modules if name.startswith("contrastive"))))
"""
)
"""Runs several scripts in one process that cannot import this package."""


def rows(count: int = 4) -> list[dict[str, Any]]:
    """Return small images of several shapes with captions."""
    noise = torch.Generator().manual_seed(3)
    shapes = [(40, 60), (90, 50), (32, 32), (70, 33)]
    return [
        {
            "image": Image.fromarray(
                torch.randint(0, 256, (*shapes[i % 4], 3), generator=noise).byte().numpy()
            ),
            "text": f"a {['red', 'blue', 'dog', 'cat'][i % 4]} {'on the house ' * i}".strip(),
            "id": i,
        }
        for i in range(count)
    ]


def is_old(which: str) -> bool:
    """Whether timm is too old for transformers, which makes a network without weights first."""
    if which not in ("vit", "timm", "timm, pretrained"):
        return False
    try:
        with torch.device("meta"):
            timm.create_model("test_vit")
    except RuntimeError:
        return True
    return False


def skip_if_old(which: str) -> None:
    if is_old(which):
        pytest.skip(f"timm {timm.__version__} makes no {which} without weights")


def model_of(towers: dict[str, Any], embed_dim: int, loss: str = "infonce") -> ContrastiveModel:
    """Return a model in eval mode; one tower is paired with itself."""
    pairs = [[name, name] for name in towers] if len(towers) == 1 else None
    spec = {"embed_dim": embed_dim, "towers": towers, "loss": {"type": loss}, "pairs": pairs}
    torch.manual_seed(1)
    return build_model(ModelSpec.model_validate(spec)).eval()


def here(folder: Path, **_) -> dict[str, float]:
    """Run ``verify.py`` in this process."""
    argv, sys.argv = sys.argv, [SCRIPT, "--json"]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            runpy.run_path(str(folder / SCRIPT), run_name="__main__")
    finally:
        sys.argv = argv
    return json.loads(output.getvalue().splitlines()[-1])["differences"]


def elsewhere(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Run the ``verify.py`` of each folder in one process without this package."""
    scripts = [str(folder / SCRIPT) for folder in folders]
    done = subprocess.run(
        [sys.executable, "-c", ALL, *scripts], capture_output=True, text=True, check=True
    )
    *found, ours = [json.loads(line) for line in done.stdout.splitlines()]
    assert ours == []
    return found
