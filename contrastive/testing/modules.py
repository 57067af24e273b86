"""Modules under test: build them, compare their states, train them for a step, save and load."""

from __future__ import annotations

from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from contrastive.encoders import CBOW
from contrastive.errors import a_type
from contrastive.heads import Linear
from contrastive.losses import InfoNCE, Loss
from contrastive.model.loading import build_model, load_model
from contrastive.spec import ModelSpec, Tower
from contrastive.testing.checks import Fault, expect

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from torch import Tensor, nn

    from contrastive.model.model import ContrastiveModel

    State = dict[str, Tensor]

IN_STATE = "keep all state in parameters or buffers (register_buffer, persistent)"
LR = 0.1  # large enough that one step changes every weight visibly
WORDS = "a red circle", "two blue squares", "green", "one", "many small dots on white"
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
}


class Counterpart(CBOW):
    """A bag of words under a modality of its own: the second tower, for text encoders too."""

    modality: ClassVar[str] = "counterpart"


def build_checked(make: Callable[[], object], base: type[nn.Module]) -> Any:
    """Return what build() returns: an instance of ``base``, with torch's settings unchanged."""
    with same_settings():
        module = make()
    remedy = f"return an instance of {base.__module__}.{base.__qualname__}"
    expect(isinstance(module, base), f"build() returns {a_type(module)}", remedy)
    return module


@contextmanager
def same_settings() -> Generator[None]:
    """Restore torch's settings after a block; if it ends well but changed them, raise a Fault."""
    before = {what: get() for what, (get, _) in SETTINGS.items()}
    changed: list[str] = []
    try:
        yield
    finally:
        for what, (get, put) in SETTINGS.items():
            if (value := get()) != before[what]:
                changed.append(f"torch's {what} from {before[what]} to {value}")
                put(before[what])
    problem = f"build() changes {' and '.join(changed)}"
    expect(not changed, problem, "leave what others share unchanged; give dtypes to the tensors")


def state_of(module: nn.Module) -> State:
    """Return copies of a module's parameters and buffers, also of those that are not saved."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: x.detach().clone() for name, x in state.items()}


def expect_same(before: State, after: State, problem: str, remedy: str) -> None:
    """Raise a Fault, which names a tensor that differs, unless two states are equal."""
    for name in sorted(before.keys() | after.keys()):
        x, y = before.get(name), after.get(name)
        if x is None or y is None or (x.shape, x.dtype) != (y.shape, y.dtype):
            raise Fault(f"{name} {problem}", remedy)
        expect(((x == y) | x.isnan() & y.isnan()).all(), f"{name} {problem}", remedy)


def check_gradients(value: Tensor, inputs: Mapping[str, Tensor], remedy: str) -> None:
    """Raise a Fault unless a scalar has a gradient by each input, and a finite one."""
    gradients = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
    for name, gradient in zip(inputs, cast("tuple[Tensor | None, ...]", gradients), strict=True):
        if gradient is None:
            raise Fault(f"no gradient reaches {name}", f"use {name} without detach")
        expect(gradient.isfinite().all(), f"the gradient of {name} is not finite", remedy)


def model_spec(embed_dim: int, tower: Tower | None = None, loss: Loss | None = None) -> ModelSpec:
    """Return a model of a tower, by default a bag of words, and another bag of words."""
    tower = tower or Tower(encoder=CBOW(width=8, buckets=64), head=Linear())
    other = Tower(encoder=Counterpart(width=8, buckets=64), head=Linear())
    towers = {tower.encoder.modality: tower, Counterpart.modality: other}
    return ModelSpec(embed_dim=embed_dim, towers=towers, loss=loss or InfoNCE())


def saved_and_loaded(spec: ModelSpec, samples: Sequence[Any]) -> list[ContrastiveModel]:
    """Train a model on some samples for a step; return it and what loads once it is saved."""
    torch.manual_seed(5)
    model = build_model(spec).train()
    words = [f"{WORDS[i % len(WORDS)]} {i}" for i in range(len(samples))]
    batches = zip(model.towers, (samples, words), strict=True)
    a, b = (model.tower(m)(**model.tower(m).encoder.preprocess(x)) for m, x in batches)
    model.loss(a, b)[0].backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(LR * parameter.grad)
    model.zero_grad()
    model.eval()
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        torch.manual_seed(6)  # so that what is not saved is drawn anew
        return [model, load_model(f"{folder}/model", trusted=True)]
