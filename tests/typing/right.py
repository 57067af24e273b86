# pyright: strict
"""What a user may write; the type checker must agree, and must know each type exactly."""

from typing import Any, ClassVar, assert_type

from pydantic import PositiveInt

from contrastive.datasets import Flickr30k
from contrastive.encoders import Encoder, encoders
from contrastive.heads import Head, Linear, Mlp, heads
from contrastive.losses import InfoNCE
from contrastive.prompts import templates
from contrastive.spec import EvaluationSpec, ModelSpec, RunSpec, Tower, load_spec


@encoders.register("eye")
class Eye(Encoder):
    """An encoder of the user's own, which may hold another."""

    modality: ClassVar[str] = "image"

    size: PositiveInt = 8
    base: Encoder | None = None

    def build(self) -> Any:
        """Return the module."""
        raise NotImplementedError


spec = ModelSpec(
    embed_dim=64,
    towers={
        "image": Tower(encoder=Eye(size=16, base=Eye()), head=Mlp(dropout=0.2), frozen="encoder"),
        "sketch": Tower(encoder=Eye(), head=Linear()),
    },
    loss=InfoNCE(temperature=0.1),
)
assert_type(spec.towers["image"].encoder, Encoder)
assert_type(Eye().size, int)
assert_type(encoders["eye"], type[Encoder])
assert_type(heads["linear"], type[Head])
assert_type(Flickr30k(source="hub", repo="owner/name").repo, str)
assert_type(EvaluationSpec(templates=templates("imagenet")).templates, tuple[str, ...])
assert_type(load_spec(RunSpec, "run.yaml", ["training.epochs=2"]), RunSpec)
assert_type(load_spec("run.yaml", overrides=["training.epochs=2"]), ModelSpec | RunSpec)
