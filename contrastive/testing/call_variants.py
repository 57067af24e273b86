"""The ways in which a loss may be called, none of which may change what it computes.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.utils.deterministic

from contrastive.testing.measure import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Call:
    """The arguments of a loss; a loss must leave them as they are."""

    tensors: dict[str, Tensor]
    """a, b, log_scale and maybe bias: what has gradients."""
    a_ids: Tensor | None
    b_ids: Tensor | None
    settings: dict[str, Any]
    """positives and the like."""
    factor: float
    """Multiplies the loss before its gradients are taken."""

    def value(self, loss: Loss, tensors: dict[str, Tensor]) -> Tensor:
        """Return the loss of some tensors with these ids and settings."""
        scalars = {name: x for name, x in tensors.items() if name not in {"a", "b"}}
        return loss(tensors["a"], tensors["b"], self.a_ids, self.b_ids, **scalars, **self.settings)

    def run(self, loss: Loss, *, of: tuple[str, ...] | None = None) -> Outcome:
        """Return the loss and its gradients.

        Args:
            loss: the implementation.
            of: the arguments whose gradients to take, the others need none; all if None.

        Raises:
            AssertionError: an argument was changed, or the loss is no scalar with a gradient.
        """
        of = tuple(self.tensors) if of is None else of
        leaves = {name: x.detach().requires_grad_(name in of) for name, x in self.tensors.items()}
        before = {name: x.clone() for name, x in self._all().items()}
        value = self.value(loss, leaves)
        assert value.dim() == 0, f"the loss has shape {tuple(value.shape)}, not that of a scalar"
        gradients: tuple[Tensor | None, ...] = (None,) * len(of)
        if value.requires_grad:
            inputs = [leaves[name] for name in of]
            gradients = torch.autograd.grad(value * self.factor, inputs, allow_unused=True)
        for name, x in self._all().items():
            assert torch.equal(before[name], x), f"the loss changed its argument {name} in place"
        for name, x in zip(of, gradients, strict=True):
            _same_type(f"gradient of {name}", x, self.tensors[name])
        return Outcome(value.detach(), dict(zip(of, gradients, strict=True)), self.factor)

    def _all(self) -> dict[str, Tensor]:
        ids = {"a_ids": self.a_ids, "b_ids": self.b_ids}
        return self.tensors | {name: x for name, x in ids.items() if x is not None}


def _same_type(of: str, x: Tensor | None, like: Tensor) -> None:
    if x is not None:
        found, right = (x.dtype, tuple(x.shape)), (like.dtype, tuple(like.shape))
        assert found == right, f"the {of} is {found}, not {right}"


def again(loss: Loss, call: Call) -> Outcome:
    """Call twice; not a bit may differ."""
    first, second = call.run(loss), call.run(loss)
    pairs = {name: (x, second.gradients[name]) for name, x in first.gradients.items()}
    for name, (x, y) in {"loss": (first.loss, second.loss), **pairs}.items():
        same = x is y if x is None or y is None else torch.equal(x, y)
        of = name if name == "loss" else f"gradient of {name}"
        assert same, f"two runs differ in the {of}"
    return second


def tripled(loss: Loss, call: Call) -> Outcome:
    """Take the gradients of three times the loss."""
    return replace(call, factor=3 * call.factor).run(loss)


def autocast(loss: Loss, call: Call) -> Outcome:
    """Call under autocast to bf16, which is not to touch the logits.

    The backward pass is outside, where PyTorch wants it.
    """

    def cast_loss(*args: Any, **settings: Any) -> Tensor:
        with torch.autocast(call.tensors["a"].device.type, dtype=torch.bfloat16):
            return loss(*args, **settings)

    return call.run(cast_loss)


def strided(loss: Loss, call: Call) -> Outcome:
    """Pass tensors that are not contiguous: columns of a matrix, every other id."""
    tensors = {name: x.t().contiguous().t() for name, x in call.tensors.items()}
    ids = [x if x is None else x.repeat_interleave(2)[::2] for x in (call.a_ids, call.b_ids)]
    return replace(call, tensors=tensors, a_ids=ids[0], b_ids=ids[1]).run(loss)


def no_grad(loss: Loss, call: Call) -> Outcome:
    """Call without any need of gradients."""
    with torch.no_grad():
        return Outcome(call.value(loss, call.tensors), {})


def fixed_scale(loss: Loss, call: Call) -> Outcome:
    """Let the embeddings have gradients, and nothing else."""
    return call.run(loss, of=("a", "b"))


def a_alone(loss: Loss, call: Call) -> Outcome:
    """Let only a have a gradient."""
    return call.run(loss, of=("a",))


def b_alone(loss: Loss, call: Call) -> Outcome:
    """Let only b have a gradient."""
    return call.run(loss, of=("b",))


def scalars_alone(loss: Loss, call: Call) -> Outcome:
    """Let log_scale and bias have gradients, as over frozen embeddings."""
    return call.run(loss, of=tuple(name for name in call.tensors if name not in {"a", "b"}))


CALL_VARIANTS = {
    variant.__name__: variant
    for variant in (
        again,
        tripled,
        autocast,
        strided,
        no_grad,
        fixed_scale,
        a_alone,
        b_alone,
        scalars_alone,
    )
}


@contextmanager
def nan_filled_memory() -> Generator[None]:
    """Fill memory that is asked for without a value with NaN, so that what nobody writes shows."""
    memory = cast("Any", torch.utils.deterministic)  # torch leaves its properties untyped
    was = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled: bool = memory.fill_uninitialized_memory
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*determinis", category=UserWarning)
            torch.use_deterministic_algorithms(True, warn_only=True)
            memory.fill_uninitialized_memory = True
            yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        memory.fill_uninitialized_memory = filled
