"""Images for words: rank what any generator made, or paint one by climbing the cosine.

Shapes: N images, C prompts, V views, D the shared width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from contrastive.config.arguments import check_cache, check_model, count
from contrastive.console import bar, say
from contrastive.data.sample_lists import one_text, text_list
from contrastive.errors import SpecError
from contrastive.inference.fourier_image import FourierImage
from contrastive.inference.random_crops import Pixels, pixels_of, random_views
from contrastive.inference.zero_shot import classify_embeddings, embed_classes
from contrastive.nn.memory import told_memory
from contrastive.nn.modes import eval_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.model.tower import TowerModule

AS_IT_IS = ("{}",)  # a prompt is a sentence already
LEARNING_RATE = 0.05  # of Adam, on the spectrum
MOST_PIXELS = 8_192  # of a side
MOST_VIEWS = 1_024
SMOOTHING = 1.0  # weight of the total variation against cosines


@dataclass(frozen=True)
class Ranked:
    """The index of an image among candidates."""

    index: int
    """Which of the images that were given."""
    cosine: float
    """Of the image and the prompt."""
    probability: float
    """That the image goes with the prompt and not with one that it is ranked against."""


def rerank(
    model: ContrastiveModel,
    prompt: str,
    images: Any,
    *,
    against: Iterable[str] = (),
    templates: Sequence[str] = AS_IT_IS,
    cache: FeatureCache | None = None,
) -> list[Ranked]:
    """Rank images by how well they go with a prompt, best first.

    Args:
        model: a model with an image and a text tower.
        prompt: what the images should show.
        images: a generator's candidates, in any form that ``ContrastiveModel.embed`` takes.
        against: prompts that the images should not go with. The order is then that of the
            probability of ``prompt`` among all of them; else it is that of the cosine.
        templates: sentences with ``{}`` for a prompt; their embeddings are averaged.
        cache: keeps the features of frozen encoders.

    Raises:
        SpecError: a prompt is given twice, or a template has no ``{}``.
        BadSample: an image cannot be read; names it.

    Example:
        >>> sorted(one.index for one in rerank(model, "a red square", [red, blue]))
        [0, 1]
    """
    prompts = [one_text(prompt, "prompt"), *text_list(against, "prompt", least=0)]
    check_cache(cache)
    texts = cache and cache.reading()
    prompts_CD = embed_classes(model, prompts, templates=templates, cache=texts, what="prompt")
    images_ND = model.embed("image", images, cache=cache)
    cosines_N = images_ND @ prompts_CD[0]
    probabilities_N = classify_embeddings(model, images_ND, prompts_CD)[:, 0]
    scores_N = probabilities_N if len(prompts) > 1 else cosines_N
    order = scores_N.argsort(descending=True, stable=True)  # equal ones as they came
    return [Ranked(int(i), cosines_N[i].item(), probabilities_N[i].item()) for i in order]


@dataclass(frozen=True)
class Step:
    """One step of ``generate``."""

    number: int
    """From 1."""
    cosine: float
    """Of views of the image and the prompt, their mean, before the step."""
    goal: float
    """What is climbed: ``cosine`` less that of the negative prompts."""


@dataclass(frozen=True)
class Generated:
    """An image made for a prompt, and how it came about."""

    image: Image.Image
    cosine: float
    """Of ``image`` and the prompt, as ``embed`` gives them."""
    before: float
    """The same of the noise that it began as."""
    history: tuple[Step, ...]
    """Fewer than ``steps`` if it was interrupted."""


def generate(
    model: ContrastiveModel,
    prompt: str,
    *,
    size: int = 128,
    steps: int = 150,
    seed: int = 0,
    views: int = 6,
    negative: Iterable[str] = (),
    templates: Sequence[str] = AS_IT_IS,
    watch: Callable[[Step], None] | None = None,
) -> Generated:
    """Paint an image whose embedding points where the prompt's does.

    Adam climbs the mean cosine over random views, in the waves of ``FourierImage`` (Olah et al.
    2017, Feature Visualization, Distill). On a CPU the same seed gives the same image. Ctrl-C
    ends it: the best image so far is returned, if there is one.

    Args:
        model: a model with an image and a text tower; its weights stay as they are.
        prompt: what the image should show.
        size: pixels of its sides, at most 8,192.
        steps: of the optimizer.
        seed: decides the noise that it begins as, and the views.
        views: random crops of the image that each step looks at, at most 1,024.
        negative: what it should not show; the mean of their cosines is subtracted.
        templates: sentences with ``{}`` for a prompt; their embeddings are averaged.
        watch: called after each step.

    Raises:
        SpecError: a number or a prompt does not fit, or the image encoder's preprocessing is more
            than scaling, cropping and normalising.
        OutOfMemory: there is no memory for an image of that size, or for so many views.

    Example:
        >>> generate(model, "a red square", size=32, steps=1, views=1).image.size
        (32, 32)
    """
    check_model(model)
    if not one_text(prompt, "prompt").strip():
        msg = "the prompt is empty; say what the image should show"
        raise SpecError(msg)
    prompts = [prompt, *text_list(negative, "negative prompt", least=0)]
    size, steps = count("size", size, least=16, most=MOST_PIXELS), count("steps", steps)
    views, seed = count("views", views, most=MOST_VIEWS), count("seed", seed, least=0)
    tower = model.tower("image")
    pixels = pixels_of(tower.encoder)
    prompts_CD = embed_classes(model, prompts, templates=templates, what="prompt")
    generator = torch.Generator().manual_seed(seed)
    canvas = FourierImage(size, generator).to(model.device)
    before = best = canvas().detach()
    highest, history = float("-inf"), list[Step]()
    optimizer = torch.optim.Adam(canvas.parameters(), lr=LEARNING_RATE)
    try:
        with (
            told_memory("generate", "take a smaller size, fewer views, or another device"),
            eval_mode(model),
            bar(f"painting {prompt!r}", steps) as advance,
        ):
            for number in range(1, steps + 1):
                canvas_image = canvas()
                seen = random_views(canvas_image, views, pixels.size, generator)
                cosines_VC = _embed(tower, pixels, seen) @ prompts_CD.T.to(model.device)
                goal = _goal(cosines_VC)
                loss = SMOOTHING * total_variation(canvas_image) - goal
                # only the gradient of the image: the model's parameters keep theirs
                (canvas.spectrum.grad,) = torch.autograd.grad(loss, [canvas.spectrum])
                optimizer.step()
                step = Step(number, cosines_VC[:, 0].mean().item(), goal.item())
                if step.goal > highest:
                    highest, best = step.goal, canvas_image.detach()
                history.append(step)
                advance(1, f"cosine {step.cosine:.3f}")
                if watch:
                    watch(step)
    except KeyboardInterrupt:
        if not history:
            raise
        say(f"interrupted after {len(history)} of {steps} steps; kept is the best image so far")
    images = [as_image(before), as_image(best)]
    first, last = model.embed("image", images) @ prompts_CD[0]
    return Generated(images[1], last.item(), first.item(), tuple(history))


def total_variation(canvas_image: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of ``[3, S, S]``."""
    down, right = canvas_image.diff(dim=1).abs().mean(), canvas_image.diff(dim=2).abs().mean()
    return down + right


def as_image(canvas_image: Tensor) -> Image.Image:
    """Return ``[3, S, S]`` in [0, 1] as a PIL image."""
    pixels = (canvas_image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())


def _embed(tower: TowerModule, pixels: Pixels, seen: Tensor) -> Tensor:
    """Return embeddings ``[V, D]`` with their gradient, whether or not the encoder is frozen."""
    return tower.project(tower.encoder(**{pixels.name: pixels.normalise(seen)}))


def _goal(cosines_VC: Tensor) -> Tensor:
    """Return the mean cosine of the first prompt, less that of the others if there are any."""
    first, *others = cosines_VC.mean(0)
    return first - torch.stack(others).mean() if others else first
