"""What the rest relies on in an encoder, tried on two samples before it is used.

Features are cached whatever they were computed beside, and a run of hours rests on them; so an
encoder that a user names is tried when it is built, and one of another package before training.

Shapes: B samples, F features.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor, nn

from contrastive.console import say
from contrastive.data.loading import preprocessed
from contrastive.encoders.image_encoder import Choices, ImageEncoder
from contrastive.encoders.module import run_forward
from contrastive.encoders.text import Tokenize
from contrastive.encoders.token_encoder import TokenEncoder
from contrastive.errors import BadSample, ContrastiveError, SpecError, a_type
from contrastive.nn.device import device_of
from contrastive.nn.memory import out_of_memory
from contrastive.nn.modes import eval_mode
from contrastive.nn.rng import RngState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.encoders.module import EncoderModule

CLOSE_ROWS = 1e-4  # of the largest number: what the order of sums in fp32 changes in a deep network
CLOSE_ON_GPU = 1e-2  # where convolutions round their factors to TF32
CLOSE_IN_SHORT = 5e-2  # where each layer rounds to 8 bits of bf16; dropout changes more
SHORT = (torch.bfloat16, torch.float16)
FEW, MANY = 5, 100  # times six words: the latter are more than 512 tokens, the default limit
LARGE = 500_000_000  # parameters, of a model that takes seconds for a long text on CPUs
AS_SHORT = ("a", "a a", "picture a")  # texts, of which some have as many tokens as another
SHARE = "{:.2g} of the largest"


Promise = Literal["rows", "finite", "repeatable", "padding", "batch"]
PROMISES = get_args(Promise)


@dataclass(frozen=True)
class Broken:
    """A promise that is not kept."""

    promise: Promise
    problem: str
    remedy: str
    """For the author of the encoder."""


def measure_out_dim(module: EncoderModule, sample: object, who: str) -> int:
    """Return F by encoding a sample, and another one, which also shows that all parts fit.

    A text model whose features change with padding is made to run texts of a length together.

    Raises:
        SpecError: they do not fit, or features depend on the batch, are random or not finite.

    Example:
        >>> measure_out_dim(encoders["cbow"](width=16).build(), "a red square", "cbow")
        16
    """
    try:
        features, broken = _trial(module, [sample, _another(module)], who)
        if not broken and _are_alike(module, features) and (own := _own_texts(module)):
            features, broken = _trial(module, own, who)
    except (ContrastiveError, MemoryError) as error:
        if isinstance(error, SpecError) and not str(error).startswith(who):
            raise type(error)(f"{who}: {error}") from error
        raise
    except Exception as error:  # the model may be of any kind: audio, video, ...
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        what = f"the model does not take what its preprocessing gives: {reason}"
        msg = f"{who}: {what}; choose another model"
        raise SpecError(msg) from error
    if broken:
        msg = f"{who}: {broken.problem}; choose another model"
        raise SpecError(msg)
    if _are_alike(module, features):
        msg = (
            f"{who}: all texts have the same features; choose another pooling (mean), or a larger "
            "max_length"
        )
        raise SpecError(msg)
    return features.shape[-1]


def _trial(module: EncoderModule, samples: Sequence[Any], who: str) -> tuple[Tensor, Broken | None]:
    """Try the samples that an encoder takes: those of its language, if it takes none of ours."""
    known = _taken(module, samples) or _own_texts(module) or samples[:1]
    if isinstance(module, ImageEncoder):
        return _tried_images(module, known, who)
    if not isinstance(module, TokenEncoder):
        return _tried(module, known)
    try:
        features, broken = _tried(module, known)
        if broken and broken.promise == "padding":
            return _without_padding(module, known, who)
        if broken or _takes_lengths(module):
            return features, broken
    except Exception as error:  # models have errors of their own
        if isinstance(error, ContrastiveError) or out_of_memory(error):
            raise
    return _padded_alike(module, known, who, "its model does not take texts of every length")


def _tried_images(
    module: ImageEncoder, samples: Sequence[Any], who: str
) -> tuple[Tensor, Broken | None]:
    """Try images, which a module is to run one by one where their batch counts, or may count."""
    with Choices() as choices:
        features, broken = _tried(module, samples)
    mixed = broken.promise == "batch" if broken else choices.made
    if module.one_by_one or not mixed:
        return features, broken
    module.one_by_one = True
    say(f"{who}: its features change with the batch, so images are run one by one")
    return _tried(module, samples)


def _taken(module: EncoderModule, samples: Sequence[Any]) -> list[Any]:
    """Return the samples that an encoder takes: maybe less than all texts or images."""
    found: list[Any] = []
    for sample in samples:
        with suppress(BadSample):
            if sample is not None:
                module.preprocess([sample])
                found.append(sample)
    return found


def _are_alike(module: EncoderModule, features: Tensor) -> bool:
    """Whether the features of two texts are the same."""
    several = module.modality == "text" and len(features) > 1
    return several and not gap(features[0], features[1], close=1e-6)


def _own_texts(module: EncoderModule) -> list[str]:
    """Return a short and a long text of a model's own words, of whatever language."""
    words = module.words() if isinstance(module, TokenEncoder) else []
    return _taken(module, [" ".join(words[:2]), " ".join(words * MANY)]) if words else []


def _without_padding(
    module: TokenEncoder, samples: Sequence[Any], who: str
) -> tuple[Tensor, Broken | None]:
    """Let a module run texts of a length together, or pad all alike if it needs more tokens."""
    module.by_length = True
    with suppress(Exception):  # as a model may that makes one token of four
        features, broken = _tried(module, [*samples, *AS_SHORT])
        if not broken and _takes_lengths(module):
            say(f"{who}: padding changes its features, so texts of a length are run together")
            return features, None
    module.by_length = False
    return _padded_alike(module, samples, who, "padding changes its features")


def _padded_alike(
    module: TokenEncoder, samples: Sequence[Any], who: str, why: str
) -> tuple[Tensor, Broken | None]:
    """Let all texts of a module be padded to its largest length."""
    if not isinstance(tokenize := module.preprocess, Tokenize):
        features, broken = _tried(module, samples)
        if not broken:
            _run_lengths(module)  # which raises
        return features, broken
    module.preprocess = replace(tokenize, padding="max_length")
    features, broken = _tried(module, samples)
    say(f"{who}: {why}, so all texts are padded to {tokenize.max_length} tokens")
    return features, broken


def _takes_lengths(module: TokenEncoder) -> bool:
    """Whether a model takes short texts of any length: some want a multiple of a number."""
    tokenize = module.preprocess
    if isinstance(tokenize, Tokenize) and tokenize.padding == "max_length":
        return True  # all have one
    with suppress(Exception):
        _run_lengths(module)
        return True
    return False


@torch.no_grad()
def _run_lengths(module: TokenEncoder) -> None:
    """Run a text of a word, and a text of a token more: no number divides both."""
    for word in _taken(module, AS_SHORT[:1]) or _own_texts(module)[:1]:
        inputs = preprocessed(module.preprocess, [word])
        mask_BL = inputs.get("attention_mask")
        if mask_BL is None:  # as of a bag of words, which has no lengths
            return
        longer = {
            name: torch.cat([x, x[:, -1:]], 1) if x.shape[1:2] == mask_BL.shape[1:] else x
            for name, x in inputs.items()
        }
        with eval_mode(module), RngState():
            for each in (inputs, longer):
                run_forward(module, {name: x.to(device_of(module)) for name, x in each.items()})


def broken_promise(module: EncoderModule, samples: Sequence[Any]) -> Broken | None:
    """Return the first promise that a built encoder breaks for some samples, if any.

    A forward pass of all, one of each alone; modes and random states stay as they are.
    """
    features, broken = _tried(module, samples)
    if broken or features.shape[1] == module.out_dim:
        return broken
    problem = f"features are {features.shape[1]} wide, but the module says {module.out_dim}"
    return Broken("rows", problem, "give, and say, one width")


@torch.no_grad()
def _tried(module: EncoderModule, samples: Sequence[Any]) -> tuple[Tensor, Broken | None]:
    """Return the features of samples, and what is wrong with them."""
    with eval_mode(module), RngState():
        random_state = torch.get_rng_state()
        together = _features(module, samples)
        if broken := _wrong_rows(together, len(samples)):
            return together, broken
        for i, sample in enumerate(samples):
            alone = _features(module, [sample])
            if broken := _wrong_rows(alone, 1):
                return together, broken
            if share := gap_on(module, alone[0], together[i]):
                break
        else:
            return together, None
        again = gap_on(module, _features(module, [sample]), alone)
        drew = not torch.equal(random_state, torch.get_rng_state())
    if again or drew:
        differ = SHARE.format(again or share)
        problem = f"features differ between two calls in eval mode, by {differ}"
        return together, Broken("repeatable", problem, "draw random numbers only if self.training")
    promise, when, remedy = mixing(module, sample, samples)
    problem = f"features of a sample change by {SHARE.format(share)} {when}"
    return together, Broken(promise, problem, remedy)


def mixing(
    module: EncoderModule, sample: object, samples: Sequence[Any]
) -> tuple[Literal["padding", "batch"], str, str]:
    """Return what changes the features of a sample among others, when, and the remedy.

    It is padding if the sample's inputs have another shape in the batch.
    """
    alone, batch = module.preprocess([sample]), module.preprocess(samples)
    if all(alone[name].shape[1:] == x.shape[1:] for name, x in batch.items()):
        remedy = "compute each row from its own sample"
        return "batch", "with what else is in its batch", remedy
    remedy = "mask padding in attention and before pooling"
    return "padding", "when it is padded to longer ones", remedy


def gap(found: Tensor, expected: Tensor, close: float = CLOSE_ROWS) -> float:
    """Return the largest difference relative to the largest number (or 1e-3); 0 if by rounding."""
    if found.shape != expected.shape or not found.numel():
        return 0.0 if found.shape == expected.shape else float("inf")
    found, expected = found.double(), expected.double()
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3))
    return 0.0 if error <= close else error


def gap_on(module: nn.Module, found: Tensor, expected: Tensor) -> float:
    """Return the ``gap`` of what a module gives, where its weights and device round more, too."""
    if any(p.dtype in SHORT for p in module.parameters()):
        return gap(found, expected, CLOSE_IN_SHORT)
    on_cpu = device_of(module).type == "cpu"
    return gap(found, expected, CLOSE_ROWS if on_cpu else CLOSE_ON_GPU)


def _features(module: EncoderModule, samples: Sequence[Any]) -> Any:
    device = device_of(module)
    inputs = preprocessed(module.preprocess, samples)
    return run_forward(module, {name: x.to(device) for name, x in inputs.items()})


def _wrong_rows(features: Any, samples: int) -> Broken | None:
    if not isinstance(features, Tensor):
        return Broken("rows", f"forward gives {a_type(features)}", "return [B, out_dim]")
    if features.is_complex():
        problem = f"features are complex ({features.dtype})"
        return Broken("rows", problem, "return real numbers, such as torch.view_as_real of them")
    if features.ndim != 2 or len(features) != samples:
        problem = f"features of a batch of {samples} have the shape {tuple(features.shape)}"
        return Broken("rows", problem, "return [B, out_dim]")
    if not features.isfinite().all():
        return Broken("finite", "features are not finite", "divide by nothing that may be zero")
    return None


def _another(module: EncoderModule) -> Any:
    """Return another sample: an upright noisy image, or a text that is cut off, by most models."""
    match module.modality:
        case "text":
            large = sum(p.numel() for p in module.parameters()) > LARGE
            return "a picture of " + "two brown dogs on wet grass " * (FEW if large else MANY)
        case "image":
            noise = torch.randint(256, (80, 48, 3), generator=torch.Generator().manual_seed(0))
            return Image.fromarray(noise.byte().numpy())
        case _:  # only who calls knows what it takes
            return None
