"""What decides the features of an encoder, and so where they are kept."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.errors import DataError
from contrastive.nn.fingerprint import weights_fingerprint
from contrastive.version import __version__

if TYPE_CHECKING:
    import torch

    from contrastive.encoders import Encoder
    from contrastive.encoders.module import EncoderModule

FORMAT = 2  # 1 had rows whose last bits depend on what was encoded beside them


def encoder_key(spec: Encoder, module: EncoderModule) -> dict[str, Any]:
    """Return everything that decides an encoder's features, as JSON.

    Raises:
        DataError: its preprocessing has no stable ``repr``, so that a change would go unseen.
    """
    preprocess = repr(module.preprocess)
    if re.search(r"\bat 0x[0-9a-f]+", preprocess):
        msg = (
            f"the features of {type(spec).__name__} cannot be cached: the repr of its preprocess "
            f"does not say what it does ({preprocess[:80]}); set training.cache: off"
        )
        raise DataError(msg)
    return {
        "format": FORMAT,
        "spec": spec.model_dump(mode="json"),
        "weights": weights_fingerprint(module),
        "preprocess": preprocess,
        "package": type(spec).registry.package_of(type(spec)) or ("contrastive-kit", __version__),
        "code": [_source(type(spec)), _source(type(module))],
        "libraries": _libraries(module),
        "out_dim": module.out_dim,
    }


def _source(cls: type) -> str:
    """Return the SHA-256 of the file that a class is written in: an edited one misses."""
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (OSError, TypeError):  # a notebook has no file
        return ""


def _libraries(module: torch.nn.Module) -> dict[str, str]:
    """Return the version of each package whose code an encoder runs: torch, timm, ..."""
    names = {type(part).__module__.partition(".")[0] for part in module.modules()}
    return {name: getattr(sys.modules[name], "__version__", "") for name in sorted(names)}
