"""What a wrong value is instead: the loss of other settings, which names the mistake.

Shapes: N rows of a, M rows of b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import torch

from contrastive.losses import Direction, Positives

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from contrastive.testing.call_variants import Call, Loss


def name_the_mistake(value: float, call: Call, judge: Loss, judge_of_logits: Loss) -> str:
    """Return which other loss has this value, in words, or nothing.

    Args:
        value: that is wrong.
        call: the arguments, float64.
        judge: the right loss.
        judge_of_logits: the same, of logits ``[N, M]``.
    """
    right = float(call.value(judge, call.tensors))
    for name, other in _others(call, judge, judge_of_logits):
        differs = abs(float(other) - right) > 1e-6 * abs(right)
        if differs and abs(float(other) - value) <= 1e-6 * abs(value):
            return f", the loss {name}"
    return ""


def _others(call: Call, judge: Loss, judge_of_logits: Loss) -> Iterator[tuple[str, Tensor]]:
    tensors, settings = call.tensors, call.settings
    scalars = {name: x for name, x in tensors.items() if name not in {"a", "b"}}

    def value(**changes: object) -> Tensor:
        given = scalars | settings | changes
        return judge(tensors["a"], tensors["b"], call.a_ids, call.b_ids, **given)

    for positives in get_args(Positives):
        if positives != settings["positives"]:
            yield f'with positives="{positives}"', value(positives=positives)
    if "bias" not in tensors:
        for direction in get_args(Direction):
            if direction != settings.get("direction", "both"):
                yield f'with direction="{direction}"', value(direction=direction)
        if "label_smoothing" in settings:
            yield "without label_smoothing", value(label_smoothing=0.0)
    yield (
        "with logits divided by exp(log_scale) instead of multiplied",
        value(log_scale=-scalars["log_scale"]),
    )
    logits_NM = scalars["log_scale"].exp() * tensors["a"] @ tensors["b"].T
    if "bias" in scalars:
        yield "without bias", value(bias=torch.zeros_like(scalars["bias"]))
        logits_NM = logits_NM + scalars["bias"]
    for dtype in (torch.bfloat16, torch.float16):
        rounded = logits_NM.to(dtype).double()
        found = judge_of_logits(rounded, call.a_ids, call.b_ids, **settings)
        yield f"of logits rounded to {str(dtype).removeprefix('torch.')}", found
