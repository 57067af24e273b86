"""Compare an implementation of a loss with ``losses.functional`` in float64, in one call.

A loss is easily right on random batches of a round size, and wrong where training leads: at low
temperatures, for losses near zero, for batches that end in the middle of a tile, with ids. So the
cases combine regimes, sizes, ids, settings and ways of calling, such that any two of them meet.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from contrastive.losses import Direction, Positives, functional
from contrastive.testing.batches import IDS, REGIMES
from contrastive.testing.call_variants import CALL_VARIANTS, Call, nan_filled_memory
from contrastive.testing.measure import Deviation, Outcome, Reference, Tolerance, deviations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from contrastive.testing.call_variants import Loss

Kind = Literal["infonce", "sigmoid"]
Size = tuple[int, int, int]

SIZES = (1, 1, 24), (1, 6, 33), (7, 5, 33), (40, 40, 24), (97, 130, 24), (130, 97, 33)
"""N, M and D of the default cases: nothing is a multiple of a tile."""
BIAS = -10.0  # where SigLIP starts
NOTHING = 2**20 * torch.finfo(torch.float32).tiny  # a million exps that underflow
SHOWN = 5  # failed cases that an error lists
TRIES = 20  # candidates for each row of the covering array; more hardly shorten it

_AXES = "regimes", "sizes", "ids", "positives", "directions", "label_smoothing", "variants"
_JUDGES: dict[Kind, tuple[Loss, Loss]] = {
    "infonce": (functional.infonce, functional.infonce_from_logits),
    "sigmoid": (functional.sigmoid, functional.sigmoid_from_logits),
}


@dataclass(frozen=True)
class LossCase:
    """One batch, the settings and the call variant.

    Example:
        >>> case = loss_cases("infonce", sizes=[(7, 5, 33)])[0]
        >>> case.check(infonce)  # silent: it agrees with the float64 reference
    """

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
        """Compare a loss with the reference; it is called as by ``check_loss``.

        Raises:
            AssertionError: one line with the case, what deviates, by how much, and the bar.
        """
        try:
            problems = [str(x) for x in self.deviations(loss) if not x.error <= x.bar]
        except AssertionError as error:
            problems = [str(error)]
        if problems:
            raise AssertionError(f"{self}: {'; '.join(problems)}")

    def deviations(self, loss: Loss) -> list[Deviation]:
        """Return all deviations, of a plain call with NaN in memory and, if it passes, a variant.

        Raises:
            AssertionError: the loss changes its arguments, differs between two runs, or returns
                a tensor of the wrong shape or type.
        """
        call = self._call()
        exact = replace(call, tensors={name: x.double() for name, x in call.tensors.items()})
        reference = self._reference(exact)
        call = self._scaled(call, reference)
        with nan_filled_memory():
            outcome = call.run(loss)
        found = self._judged(outcome, reference)
        if any(not x.error <= x.bar for x in found):
            like = _name_the_mistake(float(outcome.loss), exact, *_JUDGES[self.kind])
            return [replace(found[0], detail=f"{found[0].detail}{like}"), *found[1:]]
        in_variant = self._judged(CALL_VARIANTS[self.variant](loss, call), reference)
        return found + [replace(x, of=f"{self.variant}: {x.of}") for x in in_variant]

    def _judged(self, outcome: Outcome, reference: Reference) -> list[Deviation]:
        right = torch.promote_types(self.dtype, torch.float32)
        assert outcome.loss.dtype == right, f"the loss is {outcome.loss.dtype}, not {right}"
        return deviations(outcome, reference, self.tolerance, REGIMES[self.regime].scale)

    def _call(self) -> Call:
        """Return the arguments, as the loss gets them."""
        generator = torch.Generator().manual_seed(zlib.crc32(str(self).encode()) + self.seed)
        n, m, d = self.size
        regime = REGIMES[self.regime]
        a, b = regime.embeddings(n, m, d, generator)
        wide = torch.promote_types(self.dtype, torch.float32)
        scalars = {"log_scale": math.log(regime.scale)}
        scalars |= {"bias": BIAS} if self.kind == "sigmoid" else {}
        tensors = {name: x.to(self.device, self.dtype) for name, x in {"a": a, "b": b}.items()}
        for name, x in scalars.items():
            tensors[name] = torch.tensor(x, dtype=wide, device=self.device)
        settings: dict[str, Any] = {"positives": self.positives}
        if self.direction != "both":
            settings["direction"] = self.direction
        if self.label_smoothing:
            settings["label_smoothing"] = self.label_smoothing
        ids = (x if x is None else x.to(self.device) for x in IDS[self.ids](n, m, generator))
        a_ids, b_ids = ids
        return Call(tensors, a_ids, b_ids, settings)

    def _reference(self, exact: Call) -> Reference:
        judge, judge_of_logits = _JUDGES[self.kind]
        outcome = exact.run(judge)
        gradients = {
            name: torch.zeros_like(exact.tensors[name]) if x is None else x
            for name, x in outcome.gradients.items()
        }
        scaled_NM = _scaled_cosines(exact.tensors)
        logits_NM = (scaled_NM + exact.tensors.get("bias", 0)).requires_grad_()
        value = judge_of_logits(logits_NM, exact.a_ids, exact.b_ids, **exact.settings)
        (gradient_NM,) = torch.autograd.grad(value, logits_NM)
        terms = {"log_scale": gradient_NM * scaled_NM, "bias": gradient_NM}
        sizes = {name: float(x.abs().sum()) for name, x in terms.items()}
        # what smoothing spreads over the candidates is linear in the logits, and may cancel
        scale = REGIMES[self.regime].scale
        spread = self.label_smoothing * scale
        least_row = max(spread / sum(self.size[:2]), NOTHING * scale)
        return Reference(outcome.loss, gradients, sizes, max(spread, NOTHING), least_row)

    def _scaled(self, call: Call, reference: Reference) -> Call:
        """Keep gradients in the range of fp16, as a gradient scaler does."""
        if self.dtype != torch.float16:
            return call
        largest = max(float(reference.gradients[name].abs().max()) for name in ("a", "b"))
        factor = 2.0 ** (10 - math.frexp(largest)[1]) if largest else 1.0
        return replace(call, factor=min(factor, 2.0**60))


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

    Example:
        >>> case = loss_cases("sigmoid", regimes=["random_s14"], sizes=[(7, 5, 33)])[0]
        >>> str(case).startswith("sigmoid-float32-random_s14-7x5x33")
        True
    """
    if kind == "sigmoid":
        directions, label_smoothing = ("both",), (0.0,)
    if not rectangular:
        sizes = tuple(dict.fromkeys((n, n, d) for n, _, d in sizes))
    axes = (regimes, sizes, ids, positives, directions, label_smoothing, variants)
    known = {"regimes": REGIMES, "ids": IDS, "variants": CALL_VARIANTS}
    for argument, values in zip(_AXES, axes, strict=True):
        if not values:
            raise ValueError(f"{argument} is empty, and a suite without cases passes anything")
        for name in set(values) - known.get(argument, dict.fromkeys(values)).keys():
            raise ValueError(f"{argument}: {name!r} is none of {', '.join(known[argument])}")
    tolerance = Tolerance.of(dtype) if tolerance is None else tolerance
    return [
        LossCase(kind, *row, device=device, dtype=dtype, tolerance=tolerance, seed=seed)
        for row in covering_array(axes, strength)
    ]


def covering_array(axes: Sequence[Sequence[Any]], strength: int) -> list[tuple[Any, ...]]:
    """Return rows, one value of each axis in each, with all combinations of ``strength`` axes."""
    dice = random.Random(0)  # noqa: S311 - it chooses cases, not secrets
    subsets = list(combinations(range(len(axes)), min(strength, len(axes))))
    everything = [(p, x) for p in subsets for x in product(*(axes[i] for i in p))]
    missing, rows = set(everything), list[tuple[Any, ...]]()

    def parts(row: tuple[Any, ...]) -> set[Any]:
        return {(p, tuple(row[i] for i in p)) for p in subsets} & missing

    def complete(p: tuple[int, ...], values: tuple[Any, ...]) -> tuple[Any, ...]:
        given = dict(zip(p, values, strict=True))
        return tuple(given.get(i) if i in given else dice.choice(x) for i, x in enumerate(axes))

    for combination in dice.sample(everything, len(everything)):
        if combination in missing:
            row = max((complete(*combination) for _ in range(TRIES)), key=lambda x: len(parts(x)))
            missing -= parts(row)
            rows.append(row)
    return rows


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

    Example:
        >>> few = {"regimes": ["random_s14"], "sizes": [(7, 5, 33)], "ids": ["no_ids"]}
        >>> few |= {"variants": ["again"], "strength": 1}
        >>> check_loss(infonce, "infonce", **few)  # silent: it agrees with float64
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
        lines = f"{len(failed)} of {len(cases)} cases failed, the first of them:", *failed[:SHOWN]
        raise AssertionError("\n".join(lines))


def _name_the_mistake(value: float, call: Call, judge: Loss, judge_of_logits: Loss) -> str:
    """Return which loss of other settings has this wrong value, in words, or nothing."""
    right = float(call.value(judge, call.tensors))
    for name, other in _others(call, judge, judge_of_logits):
        differs = abs(float(other) - right) > 1e-6 * abs(right)
        if differs and abs(float(other) - value) <= 1e-6 * abs(value):
            return f", the loss {name}"
    return ""


def _others(call: Call, judge: Loss, judge_of_logits: Loss) -> Iterator[tuple[str, Tensor]]:
    tensors, settings = call.tensors, call.settings
    value = partial(call.value, judge, tensors)
    for positives in get_args(Positives):
        if positives != settings["positives"]:
            yield f'with positives="{positives}"', value(positives=positives)
    for direction in () if "bias" in tensors else get_args(Direction):
        if direction != settings.get("direction", "both"):
            yield f'with direction="{direction}"', value(direction=direction)
    if "label_smoothing" in settings:
        yield "without label_smoothing", value(label_smoothing=0.0)
    divided = value(log_scale=-tensors["log_scale"])
    yield "with logits divided by exp(log_scale) instead of multiplied", divided
    if "bias" in tensors:
        yield "without bias", value(bias=torch.zeros_like(tensors["bias"]))
    for dtype in (torch.bfloat16, torch.float16):
        rounded = (_scaled_cosines(tensors) + tensors.get("bias", 0)).to(dtype).double()
        found = judge_of_logits(rounded, call.a_ids, call.b_ids, **settings)
        yield f"of logits rounded to {str(dtype).removeprefix('torch.')}", found


def _scaled_cosines(tensors: dict[str, Tensor]) -> Tensor:
    return tensors["log_scale"].exp() * tensors["a"] @ tensors["b"].T
