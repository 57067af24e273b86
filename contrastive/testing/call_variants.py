"""The ways to call a loss, none of which may change its value or gradients."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.utils.deterministic

from contrastive.testing.measure import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

    from torch import Tensor

    Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Call:
    """The arguments of a loss, which must not change them."""

    tensors: dict[str, Tensor]
    """a, b, log_scale and maybe bias: the arguments with gradients."""
    a_ids: Tensor | None
    b_ids: Tensor | None
    settings: dict[str, Any]
    """positives and the like."""
    factor: float = 1.0
    """Multiplies the loss before its gradients are taken."""

    def value(self, loss: Loss, tensors: dict[str, Tensor], **changes: Any) -> Tensor:
        """Return the loss of some tensors with these ids and settings, or changed ones."""
        keywords = {k: x for k, x in tensors.items() if k not in {"a", "b"}} | self.settings
        return loss(tensors["a"], tensors["b"], self.a_ids, self.b_ids, **(keywords | changes))

    def run(self, loss: Loss, of: Collection[str] | None = None) -> Outcome:
        """Return the loss and its gradients by some arguments, all if ``of`` is None.

        Raises:
            AssertionError: an argument was changed, or the loss is no scalar with a gradient.
        """
        of = [name for name in self.tensors if of is None or name in of]
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
            right = self.tensors[name].dtype, tuple(self.tensors[name].shape)
            found = right if x is None else (x.dtype, tuple(x.shape))
            assert found == right, f"the gradient of {name} is {found}, not {right}"
        return Outcome(value.detach(), dict(zip(of, gradients, strict=True)), self.factor)

    def _all(self) -> dict[str, Tensor]:
        ids = {"a_ids": self.a_ids, "b_ids": self.b_ids}
        return self.tensors | {name: x for name, x in ids.items() if x is not None}


def again(loss: Loss, call: Call) -> Outcome:
    """Call twice; not a bit may differ."""
    first, second = call.run(loss), call.run(loss)
    assert torch.equal(first.loss, second.loss), "two runs differ in the loss"
    for name, x in first.gradients.items():
        y = second.gradients[name]
        same = x is y if x is None or y is None else torch.equal(x, y)
        assert same, f"two runs differ in the gradient of {name}"
    return second


def tripled(loss: Loss, call: Call) -> Outcome:
    """Take the gradients of three times the loss."""
    return replace(call, factor=3 * call.factor).run(loss)


def autocast(loss: Loss, call: Call) -> Outcome:
    """Call under autocast to bf16, which must not reach the logits.

    The backward pass is outside, as PyTorch recommends.
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


def gradients_of(*names: str) -> Callable[[Loss, Call], Outcome]:
    """Let some arguments have gradients, and nothing else."""
    return lambda loss, call: call.run(loss, names)


CALL_VARIANTS = {f.__name__: f for f in (again, tripled, autocast, strided, no_grad)} | {
    "fixed_scale": gradients_of("a", "b"),
    "a_alone": gradients_of("a"),
    "b_alone": gradients_of("b"),
    "scalars_alone": gradients_of("log_scale", "bias"),
}


@contextmanager
def nan_filled_memory() -> Generator[None]:
    """Fill uninitialized memory with NaN, so that elements that nobody writes show."""
    memory = cast("Any", torch.utils.deterministic)  # torch leaves its properties untyped
    was_on = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled: bool = memory.fill_uninitialized_memory
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*determinis", category=UserWarning)
            torch.use_deterministic_algorithms(True, warn_only=True)
            memory.fill_uninitialized_memory = True
            yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=warned)
        memory.fill_uninitialized_memory = filled
