"""A run checks what the parts owe each other: a part that breaks it is one line that names it."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from contrastive import RunSpec, train
from contrastive.datasets import Dataset
from contrastive.encoders import Encoder
from contrastive.encoders.module import EncoderModule
from contrastive.errors import SpecError
from contrastive.heads import Head
from contrastive.losses import Loss
from contrastive.losses.module import LossModule

HERE = "tests.test_part_contracts"


@dataclass(frozen=True)
class Lengths:
    how: str

    def __call__(self, samples):
        lengths = torch.tensor([[float(len(text))] for text in samples])
        return {"a tensor": lengths, "lists": {"x": lengths.tolist()}}.get(self.how, {"x": lengths})


class Texts(Encoder):
    """A line."""

    modality: ClassVar[str] = "text"
    how: str = ""

    def build(self):
        return TextsModule(self)


class TextsModule(EncoderModule):
    modality, out_dim = "text", 3

    def __init__(self, config):
        super().__init__()
        self.how, self.preprocess = config.how, Lengths(config.how)
        self.net = nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.2))

    def forward(self, x):
        features = self.net(x)
        return {"tokens": features[:, None], "narrow": features[:, :2], "a list": [features]}.get(
            self.how, features
        )


class Flat(Head):
    """A line."""

    width: int = 4

    def build(self, in_dim, out_dim):
        del out_dim
        return nn.Linear(in_dim, self.width)


class Apart(Loss):
    """A distance."""

    how: str = ""

    def build(self):
        return ApartModule(self.how)


class ApartModule(LossModule):
    def __init__(self, how):
        super().__init__()
        self.how, self.log_scale = how, nn.Parameter(torch.zeros(()))

    def forward(self, a, b, a_ids=None, b_ids=None):
        rows = (a - b).norm(dim=1) * self.log_scale.exp()
        return {"rows": (rows, {}), "bare": rows.mean()}.get(self.how, (rows.mean(), {}))


class Letters(Dataset):
    """Letters."""

    def build(self, split, *, purpose="evaluation"):
        return [{"text": "a" * (i + 1), "id": i} for i in range(8)]


def run(folder, *, encoder="", head=4, loss=""):
    tower = {
        "encoder": {"type": f"{HERE}:Texts", "how": encoder},
        "head": {"type": f"{HERE}:Flat", "width": head},
    }
    model = {
        "embed_dim": 4,
        "towers": {"text": tower},
        "pairs": [["text", "text"]],
        "loss": {"type": f"{HERE}:Apart", "how": loss},
    }
    spec = {
        "model": model,
        "data": {"type": f"{HERE}:Letters"},
        "training": {"epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu"},
        "evaluation": {"split": None},
    }
    return train(RunSpec.model_validate(spec), folder / "run")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"encoder": "a tensor"}, "preprocess Lengths gave a Tensor; it has to give a dict of"),
        ({"encoder": "lists"}, "preprocess Lengths gave a list in a dict; it has to give a dict"),
        (
            {"encoder": "tokens"},
            rf"towers.text: {HERE}:Texts: features of a batch of 3 have the shape \(3, 1, 3\);",
        ),
        ({"encoder": "narrow"}, "features are 2 wide, but the module says 3; choose another"),
        ({"encoder": "a list"}, r"forward gives a list; choose .* return \[B, out_dim\]"),
        ({"head": 5}, rf"head {HERE}:Flat: forward gave embeddings of the shape \(4, 5\); .*4\]"),
        ({"loss": "rows"}, rf"loss {HERE}:Apart: forward gave shape \(4,\) and a dict; it has to"),
        ({"loss": "bare"}, r"forward gave shape \(\); it has to give a scalar tensor and a dict"),
    ],
)
def test_a_part_that_breaks_a_contract_is_one_line(tmp_path, parts, said):
    with pytest.raises(SpecError, match=said) as caught:
        run(tmp_path, **parts)
    assert "\n" not in str(caught.value)


def test_parts_that_keep_them_train(tmp_path):
    run(tmp_path)
