"""Is this the loss? One call compares an implementation with ``losses.functional`` in float64.

A loss is easily right on random batches of a round size, and wrong where training takes it: at low
temperatures, for losses near zero, for batches that end in the middle of a tile, with ids. So the
suite goes through regimes, sizes, ids, settings and ways of calling, such that all combinations
of any two of them occur. A case is one such combination; its name says which.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from contrastive.losses import functional
from contrastive.testing.batches import IDS, REGIMES
from contrastive.testing.call_variants import CALL_VARIANTS, Call, nan_filled_memory
from contrastive.testing.covering_array import covering_array
from contrastive.testing.measure import Deviation, Outcome, Reference, Tolerance, deviations
from contrastive.testing.name_the_mistake import name_the_mistake

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contrastive.losses import Direction, Positives
    from contrastive.testing.call_variants import Loss

Kind = Literal["infonce", "sigmoid"]
Size = tuple[int, int, int]

SIZES: tuple[Size, ...] = (
    (1, 1, 24),
    (1, 6, 33),
    (7, 5, 33),
    (40, 40, 24),
    (97, 130, 24),
    (130, 97, 33),
)
"""N, M and D of the default cases: nothing is a multiple of a tile."""
BIAS = -10.0  # where SigLIP starts
NOTHING = 2**20 * torch.finfo(torch.float32).tiny  # a million exps that underflow
SHOWN = 5  # failed cases that an error lists

_AXES = "regimes", "sizes", "ids", "positives", "directions", "label_smoothing", "variants"
_JUDGES: dict[Kind, tuple[Loss, Loss]] = {
    "infonce": (functional.infonce, functional.infonce_from_logits),
    "sigmoid": (functional.sigmoid, functional.sigmoid_from_logits),
}


@dataclass(frozen=True)
class LossCase:
    """One batch, the settings and the call variant."""

    kind: Kind
    regime: str
    size: Size
    ids: str
    positives: Positives
    direction: Direction
    label_smoothing: float
    variant: str
    device: str
    dtype: torch.dtype
    tolerance: Tolerance
    seed: int

    def __str__(self) -> str:
        """Name the case; pytest can use it as ``ids=str``."""
        settings: list[str] = [self.positives]
        if self.kind == "infonce":
            settings += [self.direction, f"smoothing_{self.label_smoothing:g}"]
        parts = [self.regime, "x".join(map(str, self.size)), self.ids, *settings, self.variant]
        return f"{self.kind}-{str(self.dtype).removeprefix('torch.')}-" + "-".join(parts)

    def check(self, loss: Loss) -> None:
        """Compare a loss with the reference.

        Args:
            loss: called as ``functional.infonce`` or ``functional.sigmoid``; ``direction`` and
                ``label_smoothing`` are passed only where they are not the default.

        Raises:
            AssertionError: one line with the case, what deviates, by how much, and the bar.
        """
        try:
            problems = [str(x) for x in self.deviations(loss) if not x.error <= x.bar]
        except AssertionError as error:
            problems = [str(error)]
        if problems:
            msg = f"{self}: {'; '.join(problems)}"
            raise AssertionError(msg)

    def deviations(self, loss: Loss) -> list[Deviation]:
        """Return all differences that are judged, for who wants to see how large they are.

        First of a plain call, in which memory starts as NaN, then of the case's variant. If the
        plain call fails, there is no other.

        Raises:
            AssertionError: the loss changes its arguments, differs between two runs, or returns
                what has the wrong shape or type.
        """
        call = self._call()
        exact = self._exact(call)
        reference = self._reference(exact)
        call = self._scaled(call, reference)
        with nan_filled_memory():
            outcome = call.run(loss)
        found = self._judged(outcome, reference)
        if any(not x.error <= x.bar for x in found):
            like = name_the_mistake(float(outcome.loss), exact, *_JUDGES[self.kind])
            return [replace(found[0], detail=f"{found[0].detail}{like}"), *found[1:]]
        variant = CALL_VARIANTS[self.variant](loss, call)
        in_variant = self._judged(variant, reference)
        return found + [
            Deviation(f"{self.variant}: {x.of}", x.error, x.bar, x.detail) for x in in_variant
        ]

    def _judged(self, outcome: Outcome, reference: Reference) -> list[Deviation]:
        right = torch.promote_types(self.dtype, torch.float32)
        assert outcome.loss.dtype == right, f"the loss is {outcome.loss.dtype}, not {right}"
        scale = REGIMES[self.regime].scale
        return deviations(outcome, reference, self.tolerance, scale)

    def _call(self) -> Call:
        """Return the arguments, as the loss gets them."""
        generator = torch.Generator().manual_seed(zlib.crc32(str(self).encode()) + self.seed)
        n, m, d = self.size
        regime = REGIMES[self.regime]
        a, b = regime.embeddings(n, m, d, generator)
        wide = torch.promote_types(self.dtype, torch.float32)
        tensors = {
            "a": a.to(self.device, self.dtype),
            "b": b.to(self.device, self.dtype),
            "log_scale": torch.tensor(math.log(regime.scale), dtype=wide, device=self.device),
        }
        settings: dict[str, Any] = {"positives": self.positives}
        if self.kind == "sigmoid":
            tensors["bias"] = torch.tensor(BIAS, dtype=wide, device=self.device)
        if self.direction != "both":
            settings["direction"] = self.direction
        if self.label_smoothing:
            settings["label_smoothing"] = self.label_smoothing
        a_ids, b_ids = (
            None if x is None else x.to(self.device) for x in IDS[self.ids](n, m, generator)
        )
        return Call(tensors, a_ids, b_ids, settings, factor=1.0)

    @staticmethod
    def _exact(call: Call) -> Call:
        tensors = {name: x.double() for name, x in call.tensors.items()}
        return Call(tensors, call.a_ids, call.b_ids, call.settings, factor=1.0)

    def _reference(self, exact: Call) -> Reference:
        judge, judge_of_logits = _JUDGES[self.kind]
        outcome = exact.run(judge)
        gradients = {
            name: torch.zeros_like(exact.tensors[name]) if x is None else x
            for name, x in outcome.gradients.items()
        }
        scaled_NM = exact.tensors["log_scale"].exp() * exact.tensors["a"] @ exact.tensors["b"].T
        logits_NM = (scaled_NM + exact.tensors.get("bias", 0)).requires_grad_()
        value = judge_of_logits(logits_NM, exact.a_ids, exact.b_ids, **exact.settings)
        (gradient_NM,) = torch.autograd.grad(value, logits_NM)
        sizes = {
            "log_scale": float((gradient_NM * scaled_NM).abs().sum()),
            "bias": float(gradient_NM.abs().sum()),
        }
        # what smoothing spreads over the candidates is linear in the logits, and may cancel
        scale = REGIMES[self.regime].scale
        spread = self.label_smoothing * scale
        return Reference(
            outcome.loss,
            gradients,
            sizes,
            least=max(spread, NOTHING),
            least_row=max(spread / sum(self.size[:2]), NOTHING * scale),
        )

    def _scaled(self, call: Call, reference: Reference) -> Call:
        """Keep gradients in the range of fp16, as a gradient scaler does."""
        if self.dtype != torch.float16:
            return call
        largest = max(float(reference.gradients[name].abs().max()) for name in ("a", "b"))
        factor = 2.0 ** (10 - math.frexp(largest)[1]) if largest else 1.0
        return Call(call.tensors, call.a_ids, call.b_ids, call.settings, min(factor, 2.0**60))


def loss_cases(
    kind: Kind,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    tolerance: Tolerance | None = None,
    regimes: Sequence[str] = tuple(REGIMES),
    sizes: Sequence[Size] = SIZES,
    rectangular: bool = True,
    ids: Sequence[str] = tuple(IDS),
    positives: Sequence[Positives] = ("multi", "mask", "ignore"),
    directions: Sequence[Direction] = ("both", "a_to_b", "b_to_a"),
    label_smoothing: Sequence[float] = (0.0, 0.1),
    variants: Sequence[str] = tuple(CALL_VARIANTS),
    strength: int = 2,
    seed: int = 0,
) -> list[LossCase]:
    """Return the cases one by one, for pytest to name each that fails.

    Write ``@pytest.mark.parametrize("case", loss_cases(...), ids=str)``, then ``case.check(loss)``.

    Args:
        kind: which loss.
        device: where the tensors are.
        dtype: of the embeddings; ``log_scale`` and ``bias`` are fp32 (float64 for float64).
        tolerance: the bars; ``Tolerance.of(dtype)`` if None.
        regimes: names of ``batches.REGIMES``.
        sizes: N, M and D.
        rectangular: if False, M is made N.
        ids: names of ``batches.IDS``.
        positives: the settings that the loss knows.
        directions: likewise; infonce only.
        label_smoothing: likewise; infonce only.
        variants: names of ``call_variants.CALL_VARIANTS``.
        strength: how many of the lists above to combine. With 2 (some eighty cases), each value of
            one list meets each value of any other in some case; 3 takes some seven times as many.
        seed: another number gives other embeddings.

    Raises:
        ValueError: there is no regime, kind of ids or variant of that name, or a list is empty.
    """
    if kind == "sigmoid":
        directions, label_smoothing = ("both",), (0.0,)
    if not rectangular:
        sizes = tuple(dict.fromkeys((n, n, d) for n, _, d in sizes))
    _known("regimes", regimes, REGIMES)
    _known("ids", ids, IDS)
    _known("variants", variants, CALL_VARIANTS)
    axes = (regimes, sizes, ids, positives, directions, label_smoothing, variants)
    for argument, values in zip(_AXES, axes, strict=True):
        if not values:
            msg = f"{argument} is empty, and a suite without cases passes anything"
            raise ValueError(msg)
    tolerance = Tolerance.of(dtype) if tolerance is None else tolerance
    return [
        LossCase(kind, *row, device=device, dtype=dtype, tolerance=tolerance, seed=seed)
        for row in covering_array(axes, strength)
    ]


def _known(argument: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            msg = f"{argument}: {name!r} is none of {', '.join(known)}"
            raise ValueError(msg)


def check_loss(loss: Loss, kind: Kind, **choices: Any) -> None:
    """Compare a loss with the float64 reference: values, gradients, and variants.

    Args:
        loss: called as ``functional.infonce`` or ``functional.sigmoid``: embeddings ``[N, D]`` and
            ``[M, D]`` and their ids (or None) in order, the rest by keyword. ``direction`` and
            ``label_smoothing`` are passed only where they are not the default.
        kind: which of the two.
        choices: arguments of ``loss_cases``; say there what the loss does not support.

    Raises:
        AssertionError: one line for each failed case (some of them), with its regime, size and ids,
            what deviates, by how much, and the bar. ``loss_cases`` gives single cases.
    """
    cases, failed = loss_cases(kind, **choices), list[str]()
    for case in cases:
        try:
            case.check(loss)
        except AssertionError as error:
            failed.append(str(error))
        except Exception as error:
            error.add_note(f"in the case {case}")
            raise
    if failed:
        shown = "\n".join(failed[:SHOWN])
        msg = f"{len(failed)} of {len(cases)} cases failed, the first of them:\n{shown}"
        raise AssertionError(msg)
