"""The model: a tower for each modality and a loss, built from a spec, saved and loaded as a folder.

Shapes: B samples, N and M rows, F features, D the shared width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import normalize

from contrastive import __version__
from contrastive.config.entry_points import CORE
from contrastive.config.provenance import differences, origins, saved_with
from contrastive.config.registry import names_only
from contrastive.config.yaml_files import load, read_yaml
from contrastive.data.loading import OnBad, prepared_batches, raise_bad
from contrastive.errors import ContrastiveError, SpecError, WeightsError
from contrastive.features.cache import FeatureCache, eval_mode, weights_fingerprint
from contrastive.features.cache import batch_size as fitting_batch_size
from contrastive.model.freezing import freeze_, held, set_modes
from contrastive.model import checkpoint
from contrastive.pretrained import is_pretrained, pretrained_spec
from contrastive.spec import ModelSpec, RunSpec, Tower

if TYPE_CHECKING:
    from contrastive.encoders.module import EncoderModule
    from contrastive.losses.module import LossModule

SpecLike = ModelSpec | RunSpec | Mapping[str, Any] | str | Path

PROJECTED = 4096  # cached features that go through a head at a time: it is cheap, memory is bounded


class TowerModule(nn.Module):
    """Encoder, head and L2 normalisation; what is frozen stays as it is."""

    def __init__(self, spec: Tower, embed_dim: int) -> None:
        """Build both parts and freeze what ``spec.frozen`` says."""
        super().__init__()
        self.spec = spec
        self.encoder: EncoderModule = spec.encoder.build()
        self.head = spec.head.build(self.encoder.out_dim, embed_dim)
        freeze_(self.encoder, self.head, spec)
        self.train()

    def train(self, mode: bool = True) -> TowerModule:
        """Set the mode; frozen parts stay in eval mode, so dropout is off and statistics stay."""
        super().train(mode)
        if mode and self.spec.frozen != "none":
            set_modes(self.encoder)
            self.head.train(self.spec.frozen != "all")
        return self

    def encode(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]``, without gradients if the encoder is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            return self.encoder(**inputs)

    def project(self, features_BF: Tensor) -> Tensor:
        """Return embeddings ``[B, D]``, L2-normalised in fp32."""
        projected = self.head(features_BF)
        with torch.autocast(projected.device.type, enabled=False):
            return normalize(projected.float(), dim=-1)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return embeddings ``[B, D]`` of preprocessed samples."""
        return self.project(self.encode(**inputs))

    @property
    def encoder_frozen(self) -> bool:
        """Whether the whole encoder stays as it is, so that its features can be kept."""
        return self.spec.frozen != "none" and not self.spec.unfrozen and self.spec.lora is None


class ContrastiveModel(nn.Module):
    """Towers that embed their modalities in one space, and the loss that they were trained with."""

    def __init__(self, spec: ModelSpec) -> None:
        """Build every part of ``spec``.

        Raises:
            SpecError: two parts do not fit each other; names the tower.
        """
        super().__init__()
        self.spec = spec
        self.towers = nn.ModuleDict()
        for modality, tower in spec.towers.items():
            try:
                self.towers[modality] = TowerModule(tower, spec.embed_dim)
            except SpecError as error:
                msg = f"towers.{modality}: {error}"
                raise SpecError(msg) from error
        self.loss: LossModule = spec.loss.build()
        self.seen: dict[str, Tensor] = {}
        """Hashes of the samples that it was trained on, by modality (not text)."""

    def tower(self, modality: str) -> TowerModule:
        """Return the tower of a modality.

        Raises:
            SpecError: the model has none; says which it has.
        """
        if modality not in self.towers:
            msg = f"this model has no {modality} tower; it has: {', '.join(self.towers)}"
            raise SpecError(msg)
        return cast("TowerModule", self.towers[modality])

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.loss.log_scale.device

    @property
    def scale(self) -> float:
        """The logit scale ``s = 1 / temperature``."""
        return self.loss.log_scale.exp().item()

    @torch.no_grad()
    def embed(
        self,
        modality: str,
        samples: Sequence[Any],
        *,
        cache: FeatureCache | None = None,
        batch_size: int | None = None,
        workers: int = 0,
        on_bad: OnBad = raise_bad,
    ) -> Tensor:
        """Embed raw samples in eval mode.

        Args:
            modality: whose tower.
            samples: raw samples: for images a path, encoded bytes or a PIL image; for texts a str.
            cache: keeps the features of a frozen encoder; None computes them afresh.
            batch_size: samples at a time; by default what suits the device.
            workers: processes that decode samples.
            on_bad: called with the index and the problem of each sample that cannot be used, whose
                embedding is zero; by default, the first one raises.

        Returns:
            ``[B, D]`` fp32 on the CPU, L2-normalised.

        Raises:
            BadSample: a sample is bad, by default.
        """
        result = torch.zeros(len(samples), self.spec.embed_dim)
        with eval_mode(self):
            at_a_time = batch_size or fitting_batch_size(self)
            pieces = self._embedded(modality, samples, cache, at_a_time, workers, on_bad)
            for indices, embeddings in pieces:
                result[indices] = embeddings.float().cpu()
        return result

    def _embedded(
        self,
        modality: str,
        samples: Sequence[Any],
        cache: FeatureCache | None,
        batch_size: int,
        workers: int,
        on_bad: OnBad,
    ) -> Iterator[tuple[Any, Tensor]]:
        """Yield indices and their embeddings, piece by piece."""
        tower = self.tower(modality)
        encoder, spec = tower.encoder, tower.spec.encoder
        if cache and tower.encoder_frozen:
            table = cache.table(spec, encoder, samples, on_bad=on_bad, workers=workers)
            good = table.good.nonzero()[0]
            for start in range(0, len(good), PROJECTED):
                rows = good[start : start + PROJECTED]
                yield rows, tower.project(table[rows].to(self.device))
            return
        everything, prepare = range(len(samples)), encoder.preprocess
        for batch in prepared_batches(
            samples, everything, prepare, batch_size=batch_size, workers=workers
        ):
            for index, problem in batch.problems.items():
                on_bad(index, problem)
            if batch.indices:
                inputs = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
                yield batch.indices, tower(**inputs)

    @torch.no_grad()
    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Return logits ``[N, M]`` of embeddings ``[N, D]`` and ``[M, D]``, as in the loss."""
        return self.loss.logits(a.to(self.device), b.to(self.device)).cpu()

    def state_files(self) -> dict[str, checkpoint.Content]:
        """Return what a saved model consists of, file by file."""
        rebuilt = {m: names for m, t in self._towers() if (names := held(t))}
        left_out = {f"towers.{m}.encoder.{name}" for m in rebuilt for name in rebuilt[m]}
        state = self.state_dict().items()
        weights = {name: tensor for name, tensor in state if name not in left_out}
        about = {
            "encoders": {
                m: weights_fingerprint(self.tower(m).encoder, only=names)
                for m, names in rebuilt.items()
            },
            "packages": packages(self.spec),
            "components": origins(self.spec),
        }
        return {
            "spec.json": self.spec.model_dump(mode="json"),
            "model.safetensors": weights,
            "seen.safetensors": self.seen,
            "parts.json": about,
        }

    def save(self, folder: str | Path) -> None:
        """Save to a folder: safetensors and JSON, frozen pretrained encoders by fingerprint.

        Raises:
            WeightsError: the folder cannot be written.
        """
        checkpoint.write_folder(Path(folder), self.state_files())

    def _towers(self) -> list[tuple[str, TowerModule]]:
        return cast("list[tuple[str, TowerModule]]", list(self.towers.items()))


def build_model(spec: SpecLike) -> ContrastiveModel:
    """Build a model with its initial weights.

    Args:
        spec: a ``ModelSpec`` or ``RunSpec``, a dict of the same content, or a YAML file's path.

    Raises:
        SpecError: the spec has mistakes; one line for each.
        MissingExtra: a library that it needs is not installed.
        WeightsError: pretrained weights cannot be found.
    """
    return ContrastiveModel(model_spec(spec))


def model_spec(spec: SpecLike) -> ModelSpec:
    """Return the ``ModelSpec`` in a spec, a dict or a file; a run's spec holds one too.

    Raises:
        SpecError: the spec has mistakes; one line for each.
    """
    if isinstance(spec, (str, Path)):
        is_run = "model" in read_yaml(Path(spec))[0]
        return load(RunSpec, spec).model if is_run else load(ModelSpec, spec)
    if isinstance(spec, Mapping):
        return model_spec(_validated(RunSpec if "model" in spec else ModelSpec, spec, "the spec"))
    return spec.model if isinstance(spec, RunSpec) else spec


def load_model(folder: str | Path, *, trusted: bool = False) -> ContrastiveModel:
    """Load what ``save`` or a training run wrote, or a pretrained model, in eval mode on the CPU.

    Args:
        folder: a saved model, a checkpoint, or a run's folder (its final model, else its newest
            whole checkpoint); or the name of a pretrained model, as in ``pretrained_spec``.
        trusted: let the folder's spec name components by import path (``module:Class``), which
            runs that module; only for folders of your own.

    Raises:
        WeightsError: the folder is not whole, or a frozen encoder is not the one it was.
        SpecError: its spec does not fit, for instance since a plugin is not installed.
    """
    if is_pretrained(folder):
        return ContrastiveModel(pretrained_spec(folder)).eval()
    folder = find_model(Path(folder))
    files = checkpoint.read_folder(folder)
    data = checkpoint.plain(files, "spec.json", folder)
    parts = checkpoint.plain(files, "parts.json", folder)
    try:
        with nullcontext() if trusted else names_only(), saved_with(parts.get("components")):
            spec = _validated(ModelSpec, data, str(folder / "spec.json"))
    except ContrastiveError as error:
        msg = f"{error}{differences(parts['packages'], said=str(error))}"
        raise type(error)(msg) from error
    rebuilt: dict[str, str] = parts["encoders"]
    model = ContrastiveModel(_without_downloads(spec, rebuilt))
    model.spec = spec
    restore_weights(model, files, folder)
    model.seen = checkpoint.tensors(files, "seen.safetensors", folder)
    return model.eval()


def restore_weights(model: ContrastiveModel, files: dict[str, bytes], folder: Path) -> None:
    """Load the weights of a saved folder; encoders that their spec brings back are checked.

    Raises:
        WeightsError: such an encoder is not the one that was saved, or a tensor is missing,
            unknown or of another shape; names the first.
    """
    rebuilt: dict[str, str] = checkpoint.plain(files, "parts.json", folder)["encoders"]
    left_out: set[str] = set()
    for modality, fingerprint in rebuilt.items():
        tower = model.tower(modality)
        names = held(tower)
        left_out |= {f"towers.{modality}.encoder.{name}" for name in names}
        if weights_fingerprint(tower.encoder, only=names) != fingerprint:
            msg = f"{folder}: the {modality} encoder's weights are not those it was trained with"
            raise WeightsError(msg)
    weights = checkpoint.tensors(files, "model.safetensors", folder)
    try:
        missing, unknown = cast("Any", model.load_state_dict(weights, strict=False))
    except RuntimeError as error:
        msg = f"{folder}: {' '.join(str(error).split())}"
        raise WeightsError(msg) from None
    lost = [name for name in missing if name not in left_out]
    if lost or unknown:
        what = f"lacks {lost[0]}" if lost else f"has {unknown[0]}, which the model has not"
        msg = f"{folder / 'model.safetensors'}: {what}"
        raise WeightsError(msg)


def pick_device(name: str = "auto") -> torch.device:
    """Return a device that is there; ``auto`` is a GPU if there is one.

    Raises:
        SpecError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        msg = f"device {name!r} is not to be had here: {str(error).splitlines()[0]}"
        raise SpecError(msg) from None
    return device


def find_model(folder: Path) -> Path:
    """Return the folder with weights that ``folder`` stands for, or a pretrained model's name.

    Raises:
        WeightsError: there is none.
    """
    if is_pretrained(folder) or (folder / checkpoint.MANIFEST).exists():
        return folder
    if (folder / "model" / checkpoint.MANIFEST).exists():
        return folder / "model"
    for step in sorted((folder / "checkpoints").glob("step-*"), reverse=True):
        if checkpoint.is_whole(step):
            return step
    msg = f"{folder}: no model here; train one with: contrastive train SPEC.yaml"
    raise WeightsError(msg)


def packages(spec: ModelSpec) -> dict[str, str]:
    """Return name and version of every package that offers a part of ``spec``."""
    parts = (part for kind in origins(spec).values() for part in kind.values())
    return {CORE: __version__} | {part["package"]: part["version"] for part in parts}


def _without_downloads(spec: ModelSpec, rebuilt: Mapping[str, str]) -> ModelSpec:
    """Do not fetch pretrained weights that the saved ones will overwrite."""
    towers: dict[str, Tower] = {}
    for modality, tower in spec.towers.items():
        encoder = tower.encoder
        if modality not in rebuilt:
            known = type(encoder).model_fields
            off = {k: v for k, v in {"pretrained": False, "weights": None}.items() if k in known}
            encoder = encoder.model_copy(update=off)
        towers[modality] = tower.model_copy(update={"encoder": encoder})
    return spec.model_copy(update={"towers": towers})


def _validated(kind: type[Any], data: Any, origin: str) -> Any:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{origin}: {'.'.join(map(str, e['loc'])) or 'the spec'}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
        raise SpecError("\n".join(lines)) from None
