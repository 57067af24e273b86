"""What embeds in several processes or on Ray, for ``embed`` and the verbs about an index."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from contrastive.config.extras import require
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrastive.cli.context import Context
    from contrastive.features.cache import FeatureCache
    from contrastive.inference.embed import Plan
    from contrastive.inference.embedding_folder import EmbeddingFolder
    from contrastive.model.model import ContrastiveModel


def check_engine(engine: str) -> None:
    """Insist on what runs the processes, before the model is loaded."""
    if engine == "ray":
        require("ray", extra="ray")


def encoder(context: Context, processes: int, engine: str) -> Callable[[Plan], None] | None:
    """Return what writes the shards that a plan lacks; None where this process alone does."""
    if processes == 1 and engine == "local":
        return None

    def encode(plan: Plan) -> None:
        load = partial(_load, context.again(), _state(context, plan.folder))
        if engine == "ray":
            from contrastive.inference.embed_ray import embed_on_ray

            embed_on_ray(plan, processes, load, gpu=context.device.type == "cuda")
        else:
            from contrastive.inference.embed_processes import embed_in_processes

            embed_in_processes(plan, processes, load)

    return encode


def _state(context: Context, written: EmbeddingFolder | None = None) -> str:
    """Return what tells whether the model is still the same: its manifest, which has all hashes."""
    from contrastive.config.stored import MANIFEST
    from contrastive.nn.fingerprint import weights_fingerprint

    if context.saved:
        return (context.saved.path / MANIFEST).read_text(encoding="utf-8")
    return written.about.model if written else weights_fingerprint(context.model)


def _load(make: Callable[[], Context], state: str) -> tuple[ContrastiveModel, FeatureCache | None]:
    """Load the model in another process.

    Raises:
        DataError: it has changed since the first process has loaded it.
    """
    context = make()
    model = context.model
    if _state(context) != state:
        msg = f"{context.folder}: the model has changed meanwhile; embed into another folder"
        raise DataError(msg)
    return model, context.cache
