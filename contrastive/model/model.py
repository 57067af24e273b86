"""The model: a tower for each modality and a loss, built from a spec, saved and loaded as a folder.

Shapes: B samples, N and M rows, F features, D the shared width.
"""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from contrastive.config.arguments import check_cache, count, path_of
from contrastive.config.part_calls import build_part, call_part
from contrastive.config.provenance import origins, packages
from contrastive.data.loading import OnBad, first_bad_raises
from contrastive.data.sample_lists import sample_list
from contrastive.data.samples import NOT_MODALITIES
from contrastive.encoders.given_module import Given, GivenModule, check_given
from contrastive.encoders.module import configs_hash, preprocess_hash
from contrastive.encoders.weight_folders import noted_folders
from contrastive.errors import SpecError, WeightsError, a_type
from contrastive.heads import Identity
from contrastive.losses import InfoNCE
from contrastive.model.calibration_file import Calibrated, calibration_files
from contrastive.model.contracts import check_views_differ, checked_module, loss_and_metrics
from contrastive.model.embedding import embedded_batches
from contrastive.model.forward_inputs import checked_ids, input_views
from contrastive.model.freezing import weights_from_spec
from contrastive.model.hub import OnHub
from contrastive.model.local_paths import from_folder
from contrastive.model.saved_folder import FORMAT, Content, write_folder
from contrastive.model.tower import TowerModule
from contrastive.model.weight_copies import copies_of, without_paths
from contrastive.nn.device import batch_size as fitting_batch_size
from contrastive.nn.embeddings import NOT_FINITE, check_finite, embedding_sides
from contrastive.nn.fingerprint import weights_fingerprint
from contrastive.nn.memory import out_of_memory, told_memory
from contrastive.nn.modes import eval_mode
from contrastive.spec import ModelSpec, Tower

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from contrastive.encoders.module import EncoderModule
    from contrastive.features.cache import FeatureCache
    from contrastive.losses import Loss
    from contrastive.losses.module import LossModule

EmbeddingViews = dict[str, list[Tensor]]
"""Embeddings ``[B, D]`` by modality: two for one that is compared with itself, else one."""


class ContrastiveModel(OnHub, Calibrated, nn.Module):
    """Towers that embed their modalities in one space, and the loss that they were trained with.

    Example:
        >>> images = model.embed("image", [red, blue])  # of length 1
        >>> texts = model.embed("text", ["a red square", "a blue square"])
        >>> model.similarity(images, texts).shape
        torch.Size([2, 2])
    """

    # without it the trainer of transformers would pass numbers of its own to ``forward``
    accepts_loss_kwargs = False

    def __init__(
        self, spec: ModelSpec, *, encoders: Mapping[str, EncoderModule] | None = None
    ) -> None:
        """Build every part of ``spec``, but for encoders that are there already, by modality.

        Raises:
            SpecError: two parts do not fit each other; names the tower.
        """
        super().__init__()
        self.spec = spec
        self.towers = nn.ModuleDict()
        for modality, tower in spec.towers.items():
            taken = modality in ("", "ids", "self", *NOT_MODALITIES)
            if taken or "." in modality or hasattr(self.towers, modality):
                msg = (
                    f"towers: {modality!r} cannot name a modality: it is empty, has a dot, or is "
                    "taken by torch or by other columns of a row; choose another"
                )
                raise SpecError(msg)
            try:
                with noted_folders() as folders:
                    encoder = (encoders or {}).get(modality) or build_part(
                        tower.encoder, tower.encoder.build
                    )
                self.towers[modality] = TowerModule(tower, encoder, spec.embed_dim, folders)
            except SpecError as error:
                msg = f"towers.{modality}: {error}"
                raise SpecError(msg) from error
            except Exception as error:
                if problem := out_of_memory(error):
                    msg = f"towers.{modality}: {problem}; choose smaller sizes, or another encoder"
                    raise SpecError(msg) from error
                raise
        self.loss: LossModule = checked_module(call_part(spec.loss, spec.loss.build), spec.loss)
        self._differing: set[str] = set()
        self.seen: dict[str, Tensor] = {}
        """Hashes of the samples that it was trained on, by modality (not text)."""
        self.whole = False
        """Whether it was loaded from a folder that was saved ``whole``."""

    @classmethod
    def from_modules(
        cls,
        modules: Mapping[str, nn.Module],
        preprocess: Mapping[str, Callable[[Sequence[Any]], Any]],
        *,
        embed_dim: int,
        loss: Loss | None = None,
        pairs: Sequence[tuple[str, str]] | None = None,
    ) -> ContrastiveModel:
        """Make a model of ``nn.Module``s of your own, without a spec or a plugin.

        It embeds, evaluates and trains in a loop of your own; it is saved by its ``state_dict``.

        Args:
            modules: a tower for each modality, whose output is ``[B, embed_dim]``; it is
                L2-normalised.
            preprocess: for each modality, what turns a list of B raw samples into a tensor, or a
                dict of tensors: the input, or keyword arguments, of the module.
            embed_dim: D, the shared width.
            loss: its config; ``InfoNCE()`` if None.
            pairs: modality pairs that the loss compares; by default, every two.

        Raises:
            SpecError: a modality lacks a module or a preprocess, or has something else instead; its
                name cannot be one; or it has no other to be paired with.
        """
        check_given(modules, preprocess)
        spec = ModelSpec(
            embed_dim=embed_dim,
            towers={
                name: Tower(encoder=Given(name=name, module=type(module).__name__), head=Identity())
                for name, module in modules.items()
            },
            loss=InfoNCE() if loss is None else loss,
            pairs=cast("Any", pairs),
        )
        encoders = {
            name: GivenModule(module, preprocess[name], name, spec.embed_dim)
            for name, module in modules.items()
        }
        return cls(spec, encoders=encoders)

    def __repr__(self) -> str:
        """Return the towers and the loss in a line each; ``model.towers`` shows the modules."""
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in self.parameters()) - trained
        lines = [
            f"ContrastiveModel: {trained:,} parameters are trained, {frozen:,} are frozen, on "
            f"{self.device}"
        ]
        for modality, tower in self._towers():
            encoder, head = (type(part).__name__ for part in (tower.spec.encoder, tower.spec.head))
            held = "" if tower.spec.frozen == "none" else f" (frozen: {tower.spec.frozen})"
            widths = f"{tower.encoder.out_dim} -> {head} {self.spec.embed_dim}"
            lines.append(f"  {modality}: {encoder} {widths}{held}")
        name = type(self.spec.loss).__name__
        return "\n".join([*lines, f"  loss: {name}, logit scale {self.scale:.1f}"])

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
        samples: Any,
        *,
        cache: FeatureCache | None = None,
        batch_size: int | None = None,
        workers: int = 0,
        on_bad: OnBad | None = None,
    ) -> Tensor:
        """Embed raw samples in eval mode.

        The bits of an embedding depend on ``batch_size``, the device and its number of threads, not
        on the other samples.

        Args:
            modality: whose tower.
            samples: one or several raw samples: for images paths, encoded bytes, PIL images, arrays
                or tensors; for texts str. ``contrastive.data.sample_lists`` has every form.
            cache: keeps the features of a frozen encoder; None computes them afresh.
            batch_size: samples at a time; by default what suits the device. Fewer are filled up to
                it, so that for one sample 1 is faster.
            workers: processes that decode samples.
            on_bad: called with the index and the problem of each sample that is broken, or whose
                embedding is not finite; its row is zero. By default, the first one raises.

        Returns:
            ``[B, D]`` fp32 on the CPU, L2-normalised.

        Raises:
            BadSample: a sample is bad, by default; or ``samples`` are no samples.
            OutOfMemory: a batch is too large.
            SpecError: the model has no such tower, or a number is none that makes sense.
        """
        if not isinstance(cast("object", modality), str):
            what = f"a modality, such as 'text', before the samples; not {a_type(modality)}"
            raise SpecError(f"embed takes {what}")
        self.tower(modality)
        check_cache(cache)
        at_a_time = fitting_batch_size(self) if batch_size is None else batch_size
        at_a_time, workers = count("batch_size", at_a_time), count("workers", workers, least=0)
        samples = sample_list(samples, modality)
        on_bad = on_bad or first_bad_raises(len(samples))
        result = torch.zeros(len(samples), self.spec.embed_dim)
        what = f"embedding {modality} samples, {at_a_time} at a time"
        with eval_mode(self), told_memory(what, "give a smaller batch_size, or another device"):
            batches = embedded_batches(
                self.tower(modality),
                samples,
                self.device,
                modality=modality,
                cache=cache,
                batch_size=at_a_time,
                workers=workers,
                on_bad=on_bad,
            )
            for indices, embeddings in batches:
                rows = embeddings.float().cpu()
                finite = rows.isfinite().all(-1)
                for i in compress(indices, ~finite):
                    on_bad(int(i), NOT_FINITE.format("embedding is"))
                result[indices] = rows.where(finite[:, None], 0)
        return result

    def forward(
        self,
        *,
        ids: Tensor | Sequence[int] | Sequence[str] | None = None,
        **inputs: Mapping[str, Tensor] | Sequence[Any],
    ) -> dict[str, Any]:
        """Return the loss of a batch, for a training loop of your own.

        In training mode it first brings the temperature back into its bounds, as ``train`` does
        after each step.

        Args:
            ids: ``[B]`` group ids; None if each row is a group of its own.
            inputs: by modality, what its encoder's ``preprocess`` (or ``augment``) returned for B
                samples; two of these, in a list, for a modality that is paired with itself.

        Returns:
            ``loss``, a scalar; ``metrics``, detached scalars; ``embeddings``, ``[B, D]`` by
            modality (the first view).

        Raises:
            SpecError: inputs of a modality that the model pairs are missing, or of another one, or
                are not what ``preprocess`` returns; or rows differ in number.
            TrainingError: the two views of a modality do not differ.
        """
        if missing := [modality for modality in self.towers if modality not in inputs]:
            msg = f"forward: no inputs for {missing[0]}; give {', '.join(self.towers)}"
            raise SpecError(msg)
        if self.training:
            self.loss.clamp_()
        views: EmbeddingViews = {}
        for modality, given in inputs.items():
            tower = self.tower(modality)
            views[modality] = [tower(**each) for each in input_views(modality, given)]
        loss, metrics = self.pair_loss(views, ids)
        embeddings = {modality: first for modality, (first, *_) in views.items()}
        return {"loss": loss, "metrics": metrics, "embeddings": embeddings}

    def pair_loss(
        self, views: EmbeddingViews, ids: Tensor | Sequence[int] | Sequence[str] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of the losses of all modality pairs, and metrics.

        The metrics are those of the first pair; with several pairs, also the loss of each, as
        ``loss_image_text``.

        Args:
            views: embeddings.
            ids: ``[B]`` group ids, or None.

        Raises:
            SpecError: rows differ in number, or a modality is missing.
            TrainingError: the two views of a modality do not differ.
        """
        paired = {modality for pair in self.spec.modality_pairs for modality in pair}
        ids = checked_ids(ids, {m: views.get(m, []) for m in sorted(paired)})
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for a, b in self.spec.modality_pairs:
            first, second = views[a][0], views[b][-1]
            if a == b:
                check_views_differ(a, first, second, known=self._differing)
            loss, about = loss_and_metrics(self.loss, self.spec, first, second, ids)
            losses[f"loss_{a}_{b}"] = loss
            metrics = metrics or about
        if len(losses) > 1:
            metrics = metrics | {name: loss.detach() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).mean(), metrics

    @torch.no_grad()
    def similarity(self, a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> Tensor:
        """Return logits ``[N, M]`` of embeddings ``[N, D]`` and ``[M, D]``, as in the loss.

        Embeddings are tensors or arrays, on any device.

        Raises:
            DataError: they are no matrices of finite numbers, or differ in width; or the logits are
                not finite.
        """
        a, b = embedding_sides(self.device, a=a, b=b)
        logits_NM = self.loss.logits(a, b).cpu()
        check_finite(logits_NM, "logits")  # the temperature may not be
        return logits_NM

    def state_files(self, place: Path | None = None) -> dict[str, Content]:
        """Return what a saved model consists of, file by file; ``place`` is where it goes."""
        rebuilt = self._rebuilt()
        left_out = {f"towers.{m}.encoder.{name}" for m in rebuilt for name in rebuilt[m]}
        weights = {name: x for name, x in self.state_dict().items() if name not in left_out}
        found = origins(self.spec)
        about = {
            "encoders": {
                m: weights_fingerprint(self.tower(m).encoder, only=names)
                for m, names in rebuilt.items()
            },
            "configs": {m: configs_hash(self.tower(m).encoder) for m in self.towers},
            "preprocess": {m: h for m, t in self._towers() if (h := preprocess_hash(t.encoder))},
            "paths": (paths := {m: t.paths for m, t in self._towers() if t.paths}),
            "beside": {m: from_folder(place, several) for m, several in paths.items() if place},
            "packages": packages(found),
            "components": found,
        }
        return {
            "spec.json": {"format": FORMAT} | self.spec.model_dump(mode="json"),
            "model.safetensors": weights,
            "seen.safetensors": self.seen,
            "parts.json": about,
        } | calibration_files(self)

    def save(self, folder: str | Path, *, whole: bool | None = None) -> None:
        """Save to a folder: safetensors and JSON, frozen pretrained encoders by fingerprint.

        Args:
            folder: where to; an older saved model is replaced.
            whole: with a copy of the files that pretrained encoders were loaded from (weights,
                config, tokenizer), so that the folder can be loaded on a machine without them. By
                default, if the model was loaded from such a folder.

        Raises:
            WeightsError: the folder cannot be written, or the model was made ``from_modules``; or
                what is to be copied is no longer there.
        """
        for modality, tower in self._towers():
            if isinstance(tower.encoder, GivenModule):
                msg = (
                    f"towers.{modality} is a module that was given, so no spec can rebuild it; "
                    "save model.state_dict(), or give it a config class (docs/write_a_plugin.md)"
                )
                raise WeightsError(msg)
        place = path_of("folder", folder)
        files = self.state_files(place)
        if not (self.whole if whole is None else whole):
            write_folder(place, files)
            return
        copies = copies_of(self._towers(), self._rebuilt())
        write_folder(place, files | without_paths(files, copies), others=copies.write)

    def _rebuilt(self) -> dict[str, frozenset[str]]:
        """Return, by modality, the weights of encoders that their specs bring back."""
        held = {m: weights_from_spec(t.encoder, t.spec) for m, t in self._towers()}
        return {m: names for m, names in held.items() if names}

    def _towers(self) -> list[tuple[str, TowerModule]]:
        return cast("list[tuple[str, TowerModule]]", list(self.towers.items()))
