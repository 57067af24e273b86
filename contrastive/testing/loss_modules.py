"""What losses promise as modules, whatever they compute: scale, gradients, state.

Shapes: N pairs, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.distributed.global_batch import BatchGroup
from contrastive.losses.module import LossModule
from contrastive.model.loading import build_model
from contrastive.testing.checks import Check, Fault, Skipped
from contrastive.testing.loss_values import VALUE_CHECKS, same
from contrastive.testing.rows import difference, state_of
from contrastive.testing.saved import WORDS, reloaded, train_step
from contrastive.testing.settings import same_settings
from contrastive.testing.subjects import (
    FAR,
    LossSubject,
    gradients_of,
)

if TYPE_CHECKING:
    from torch import Tensor


def builds(subject: LossSubject) -> None:
    """Build returns a LossModule."""
    with same_settings():
        module: Any = subject.make()
    if not isinstance(module, LossModule):
        problem = f"build() returns {type(module).__name__}"
        raise Fault(problem, "subclass contrastive.losses.module.LossModule")
    subject.pairs()  # of a width that it takes


def owns_its_scale(subject: LossSubject) -> None:
    """Its log_scale is a scalar parameter, or a buffer if it is not learned."""
    module = subject.make()
    scale: Any = getattr(module, "log_scale", None)
    if not isinstance(scale, torch.Tensor):
        problem = f"log_scale is {type(scale).__name__}"
        raise Fault(problem, "make it an nn.Parameter with the logarithm of 1 / temperature")
    if not any(scale is x for x in (*module.parameters(), *module.buffers())):
        problem = "log_scale is a plain tensor: not trained, not saved, not moved to a GPU"
        raise Fault(problem, "make it an nn.Parameter, or register_buffer it if it is fixed")
    if scale.ndim or not scale.isfinite():
        problem = f"log_scale is {scale.tolist()}"
        raise Fault(problem, "make it one finite number, of shape ()")


def gives_a_number(subject: LossSubject) -> None:
    """Forward gives a finite scalar with a gradient, and a dict of detached scalar figures."""
    a, b = subject.pairs()
    result: Any = subject.call(a.requires_grad_(), b)
    pair = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else ()
    if len(pair) != 2 or not isinstance(pair[1], dict):
        raise Fault("forward gives no pair", "return the loss and a dict of figures")
    loss, figures = cast("tuple[Tensor, dict[str, Any]]", pair)
    if loss.shape != () or not loss.is_floating_point():
        problem = f"the loss is {loss.dtype} of the shape {tuple(loss.shape)}"
        raise Fault(problem, "reduce it to one number, the mean over rows")
    if not loss.isfinite():
        raise Fault(f"the loss is {float(loss)}", "compute in logarithms: logsumexp, logsigmoid")
    for name, figure in figures.items():
        if not isinstance(figure, torch.Tensor) or figure.numel() != 1 or figure.requires_grad:
            problem = f"figure {name!r} is not a detached scalar tensor"
            raise Fault(problem, "log x.detach(), of one number")


def has_gradients(subject: LossSubject) -> None:
    """Gradients reach both embeddings and every parameter, and are finite."""
    module = subject.make()
    a, b = (x.requires_grad_() for x in subject.pairs())
    loss, _ = subject.call(a, b, module=module)
    parameters = [(name, x) for name, x in module.named_parameters() if x.requires_grad]
    inputs = [("a", a), ("b", b), *parameters]
    found = gradients_of(loss, [x for _, x in inputs])
    for (name, _), gradient in zip(inputs, found, strict=True):
        if gradient is None:
            raise Fault(f"no gradient reaches {name}", f"use {name} in the loss, without detach")
        if not gradient.isfinite().all():
            raise Fault(f"the gradient of {name} is not finite", "compute in logarithms")


def leaves_inputs(subject: LossSubject) -> None:
    """Embeddings and ids are as they were after a call."""
    ids = torch.arange(8) // 2
    given = (*subject.pairs(), ids)
    kept = [x.clone() for x in given]
    subject.call(*given)
    for name, x, before in zip(("a", "b", "a_ids"), given, kept, strict=True):
        if not torch.equal(x, before):
            raise Fault(f"a call changes {name} in place", f"work on a copy of {name}")


def keeps_bounds(subject: LossSubject) -> None:
    """clamp_ brings a learned log_scale that has run away back."""
    module = subject.make()
    if not isinstance(module.log_scale, torch.nn.Parameter):
        raise Skipped("its log_scale is fixed")
    with torch.no_grad():
        module.log_scale.fill_(FAR)
    module.clamp_()
    if float(module.log_scale.detach()) >= FAR:
        problem = f"after clamp_() log_scale is still {FAR:g}"
        raise Fault(problem, "clamp it in clamp_(); CLIP keeps it at most at ln 100")


def says_how(subject: LossSubject) -> None:
    """Its logits, group and execution are what the training loop asks for."""
    module = subject.make()
    a, b = subject.pairs()
    shape = tuple(module.logits(a, b[:5]).shape)
    if shape != (8, 5):
        raise Fault(f"logits of 8 and 5 rows have the shape {shape}", "return [N, M] logits")
    how: Any = module.describe(8, 8, a.shape[1], a.dtype, a.device)
    if not isinstance(how, str):
        raise Fault(f"describe() gives {how!r}", "return a word for the log, such as eager")
    group: Any = module.batch_group()
    if group is not None and not isinstance(group, BatchGroup):
        problem = f"batch_group() gives a {type(group).__name__}"
        raise Fault(problem, "return None, or BatchGroup.current() if the loss gathers the batches")


def keeps_its_state(subject: LossSubject) -> None:
    """A trained model that is saved and loaded goes on as the one that was not."""
    a, b = subject.pairs()
    subject.call(a, b)  # whether it goes by a batch at all
    torch.manual_seed(5)
    model = build_model(subject.model())
    train_step(model, {"text": WORDS, "counterpart": WORDS})
    loaded = reloaded(model)
    if changed := difference(state_of(model), state_of(loaded)):
        problem = f"{changed} is another once saved and loaded"
        raise Fault(problem, "let load_state_dict restore it as it was")
    values = [subject.value(a, b, module=each.loss) for each in (model, loaded)]
    if not same(values[1], values[0]):
        problem = (
            f"saved and loaded, it gives {values[1]:.6g} for a batch that gave {values[0]:.6g}"
        )
        remedy = "keep what decides as parameters or buffers (register_buffer, persistent)"
        raise Fault(problem, remedy)


LOSS_CHECKS: tuple[Check[Any], ...] = (
    Check("build", builds),
    Check("log_scale", owns_its_scale, needs=("build",)),
    Check("output", gives_a_number, needs=("log_scale",)),
    Check("gradients", has_gradients, needs=("output",)),
    Check("inputs", leaves_inputs, needs=("output",)),
    *VALUE_CHECKS,
    Check("bounds", keeps_bounds, needs=("log_scale",)),
    Check("log", says_how, needs=("log_scale",)),
    Check("save and load", keeps_its_state, needs=("inputs", "round trip")),
)
