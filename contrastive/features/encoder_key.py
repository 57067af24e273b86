"""What decides the features of an encoder, and so where they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import PIL

from contrastive.config.provenance import components, is_ours
from contrastive.config.registry import path_of
from contrastive.encoders import Encoder
from contrastive.encoders.module import ADDRESS, configs_hash
from contrastive.errors import DataError
from contrastive.features.code_versions import code_versions
from contrastive.features.store import FORMAT
from contrastive.nn.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from contrastive.encoders.module import EncoderModule


def encoder_key(spec: Encoder, module: EncoderModule) -> dict[str, Any]:
    """Return everything that decides an encoder's features, as JSON.

    Raises:
        DataError: its preprocessing has no stable ``repr``, so that a change would go unseen.
    """
    preprocess = repr(module.preprocess)
    if ADDRESS.search(preprocess):
        msg = (
            f"the features of {type(spec).__name__} cannot be cached: the repr of its preprocess "
            f"does not say what it does ({preprocess[:80]}); make it an object of a dataclass, or "
            "set training.cache: off"
        )
        raise DataError(msg)
    classes = {type(part) for part in components(spec)}
    foreign = {cls for cls in classes if not is_ours(cls)}
    offers = [cls.registry.package_of(cls) for cls in foreign]
    packages = {offer[0] for offer in offers if offer}
    used = [module.preprocess, *{type(part) for part in module.modules()}]
    hashes, versions = code_versions(foreign, used, packages)
    if module.modality == "image":
        versions["PIL"] = PIL.__version__  # decodes and resizes
    return {
        "format": FORMAT,
        "spec": spec.model_dump(mode="json"),
        "weights": weights_fingerprint(module),
        "configs": configs_hash(module),
        "preprocess": preprocess,
        "components": {path_of(cls): _version(cls) for cls in classes},
        "code": hashes,
        "libraries": versions,
        "out_dim": module.out_dim,
    }


def _version(cls: type[Any]) -> int:
    """Return the ``FEATURES_VERSION`` of a component; other kinds than encoders have none."""
    return cls.FEATURES_VERSION if issubclass(cls, Encoder) else 0
