"""A model with the component in it is trained for a step, saved, and loaded: is it the same?"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from contrastive.model.loading import build_model, load_model
from contrastive.testing.checks import Fault
from contrastive.testing.rows import RowsSubject, gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.model.model import ContrastiveModel

WORDS = "a red circle", "two blue squares", "green", "one", "many small dots on white"
LR = 0.1


def keeps_its_weights(subject: RowsSubject) -> None:
    """A trained model that is saved and loaded embeds as before, frozen or not."""
    for frozen in (False, True):
        torch.manual_seed(5)
        model = build_model(subject.model(frozen=frozen))
        modality, counterpart = model.towers
        samples = subject.raw_samples
        words = [f"{WORDS[i % len(WORDS)]} {i}" for i in range(len(samples))]
        train_step(model, {modality: samples, counterpart: words})
        loaded = reloaded(model)
        share = gap(loaded.embed(modality, samples), model.embed(modality, samples))
        if share:
            how = "frozen" if frozen else "trained"
            problem = f"a {how} model that is saved and loaded embeds otherwise, by {share:.2g}"
            remedy = "keep what decides as parameters or buffers (register_buffer, persistent)"
            raise Fault(problem, remedy)


def train_step(model: ContrastiveModel, samples: dict[str, Sequence[Any]]) -> None:
    """Go one step downhill."""
    model.train()
    a, b = (model.tower(m)(**model.tower(m).encoder.preprocess(x)) for m, x in samples.items())
    loss, _ = model.loss(a, b)
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(LR * parameter.grad)
    model.zero_grad()
    model.eval()


def reloaded(model: ContrastiveModel) -> ContrastiveModel:
    """Save a model and load it, under another seed."""
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        torch.manual_seed(6)
        return load_model(f"{folder}/model", trusted=True)
