"""A run checks what the parts owe each other: a part that breaks it is one line that names it."""

import gc
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from contrastive import RunSpec, build_model, train
from contrastive.data.bad_rows import BadRows
from contrastive.datasets import Dataset
from contrastive.encoders import Encoder
from contrastive.encoders.module import EncoderModule
from contrastive.errors import DataError, SpecError, TrainingError
from contrastive.heads import Head
from contrastive.losses import Loss
from contrastive.losses.module import LossModule
from contrastive.reporting.run_log import read_log
from tests.toys import toy_dict

HERE = "tests.test_part_contracts"
FLAT = f"{HERE}:Flat"
COLLECTS = []


@dataclass(frozen=True)
class Lengths:
    how: str

    def __call__(self, samples):
        lengths = torch.tensor([[float(len(text))] for text in samples])
        given = {"a tensor": lengths, "lists": {"x": lengths.tolist()}, "names": {"y": lengths}}
        given["a number"] = {1: lengths}
        return given.get(self.how, {"x": lengths})


class Texts(Encoder):
    """A line."""

    modality: ClassVar[str] = "text"
    how: str = ""

    def build(self):
        COLLECTS.append(gc.isenabled())
        built = {"nothing": None, "no width": nn.Linear(1, 3)}
        return built[self.how] if self.how in built else TextsModule(self)


class TextsModule(EncoderModule):
    modality, out_dim = "text", 3

    def __init__(self, config):
        super().__init__()
        self.how, self.preprocess = config.how, Lengths(config.how)
        self.net = nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.2))
        if config.how == "a width in words":
            self.out_dim = "3"
        if config.how == "no function":
            self.preprocess = 5
        if config.how == "no numbers":
            self.net = self.net.to("meta")

    def forward(self, x):
        features = self.net(x)
        if self.how == "another weight" and self.training:
            self.net = nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.2))
        if self.how == "in place":
            return features.exp().mul_(2)
        if self.how == "inference":
            with torch.inference_mode():
                return self.net(x)
        if self.how == "detached":
            return features.detach()
        if self.how == "mixed":
            return features - features.mean(0)
        return {"tokens": features[:, None], "narrow": features[:, :2], "a list": [features]}.get(
            self.how, features
        )


class Flat(Head):
    """A line."""

    width: int = 4
    how: str = ""

    def build(self, in_dim, out_dim):
        del out_dim
        return FlatModule(in_dim, self.width, self.how) if self.width else None


class FlatModule(nn.Linear):
    def __init__(self, in_dim, width, how):
        super().__init__(in_dim, width)
        self.how = how

    def forward(self, x):
        rows = super().forward(x)
        odd = {"one row": rows[:1], "complex": rows * 1j, "detached": rows.detach()}
        odd |= {"turned": rows.flip(0), "zero": rows * 0, "same": rows * 0 + 1}
        if self.how == "noisy":
            return rows + torch.rand_like(rows)
        return odd.get(self.how, rows)


class Alone(Head):
    """Is not told the widths."""

    def build(self):
        return nn.Linear(3, 4)


class Apart(Loss):
    """A distance."""

    how: str = ""

    def build(self):
        return None if self.how == "nothing" else ApartModule(self.how)


class ApartModule(LossModule):
    def __init__(self, how):
        super().__init__()
        self.how, self.log_scale = how, nn.Parameter(torch.zeros(()))

    def forward(self, a, b, a_ids=None, b_ids=None):
        rows = (a - b).norm(dim=1) * self.log_scale.exp()
        if self.how == "no scale" and self.training:
            del self.log_scale
        loss = rows.mean()
        odd = {
            "rows": (rows, {}),
            "bare": loss,
            "detached": (loss.detach(), {}),
            "whole": (loss.long(), {}),
            "a metric of rows": (loss, {"distance": rows.detach()}),
            "a metric that is logged": (loss, {"lr": loss.detach()}),
            "a metric without a name": (loss, {1: loss.detach()}),
        }
        return odd.get(self.how, (loss, {}))


class Letters(Dataset):
    """Letters."""

    how: str = ""

    def build(self, split, *, purpose="evaluation"):
        rows = [{"text": "a" * (i // 4 + 1), "id": i // 4} for i in range(32)]
        odd = {
            "nothing": None,
            "a class": Half,
            "half a length": Half(rows),
            "texts": ["a", "b"],
            "ids that are floats": [{**row, "id": 0.5} for row in rows],
            "labels that are numbers": [{**row, "label": 1} for row in rows],
            "bad rows": Counted(rows),
            "a text that is none": Strict([*rows[:5], {**rows[5], "text": None}, *rows[6:]]),
            "a text of pandas": Strict([*rows[:5], {**rows[5], "text": math.nan}, *rows[6:]]),
            "large ids": [{**row, "id": 2**64 + row["id"]} for row in rows],
            "a generator": (row for row in rows),
        }
        return odd.get(self.how, rows)


class Half(list):
    def __len__(self):
        return 1.5  # noqa: PLE0303


class Counted(list):
    bad_rows = 3


class Strict(list):
    def __init__(self, rows):
        super().__init__(rows)
        self.bad_rows = BadRows(budget=0)


class Narrow(Dataset):
    """Knows no purpose."""

    def build(self, split):
        return []


def spec(*, encoder="", head=4, loss="", data=""):
    tower = {
        "encoder": {"type": f"{HERE}:Texts", "how": encoder},
        "head": head if isinstance(head, dict) else {"type": f"{HERE}:Flat", "width": head},
    }
    model = {
        "embed_dim": 4,
        "towers": {"text": tower},
        "pairs": [["text", "text"]],
        "loss": {"type": f"{HERE}:Apart", "how": loss},
    }
    return {
        "model": model,
        "data": data if isinstance(data, dict) else {"type": f"{HERE}:Letters", "how": data},
        "training": {"epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu"},
        "evaluation": {"split": None},
    }


def run(folder, **parts):
    return train(RunSpec.model_validate(spec(**parts)), folder / "run")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"encoder": "nothing"}, rf"encoder {HERE}:Texts: build returned a NoneType; it has to"),
        ({"encoder": "no width"}, "its Linear has no out_dim or preprocess; set it in __init__"),
        ({"encoder": "names"}, r"TextsModule: forward does not take .* gives \(y\): .*'x'; use"),
        ({"encoder": "a width in words"}, "TextsModule.out_dim is '3'; set it to the width of its"),
        ({"encoder": "no function"}, "TextsModule.preprocess is an int; set it to a function of"),
        ({"head": {"type": f"{HERE}:Alone"}}, "Alone: build does not take what it is given: .*;"),
        ({"head": {"type": FLAT, "how": "one row"}}, r"the shape \(1, 4\); .* give \[4, 4\]$"),
        ({"head": {"type": FLAT, "how": "complex"}}, r"complex numbers .*\[4, 4\], real numbers$"),
        ({"loss": "detached"}, "Apart: its loss has no gradient; compute it from the embeddings"),
        ({"loss": "whole"}, "gave a loss of torch.int64; it has to give a real floating-point"),
        ({"loss": "a metric of rows"}, r"shape \(4,\) as the metric 'distance'; give a real"),
        ({"loss": "a metric that is logged"}, "named 'lr'; name it by another string than step"),
        ({"loss": "a metric without a name"}, "metric named 1; name it by another string"),
        ({"data": {"type": f"{HERE}:Narrow"}}, f"dataset {HERE}:Narrow: build does not take .*;"),
        ({"encoder": "a number"}, "gave a dict with the key 1; it has to give a dict of tensors"),
        ({"encoder": "no numbers"}, "0.weight is on the device meta, without numbers; fill it in"),
        ({"encoder": "in place"}, rf"{HERE}:Texts or .*:Apart changes a tensor in place that its"),
        ({"encoder": "inference"}, "Apart runs in torch.inference_mode, whose tensors have no"),
        ({"head": {"type": FLAT, "how": "turned"}}, "Flat: its embeddings change by .* the batch;"),
        ({"head": {"type": FLAT, "how": "noisy"}}, "Flat: its embeddings differ between two calls"),
        ({"encoder": "mixed"}, "text: .* with what else is in its batch; choose another encoder"),
        ({"head": 0}, rf"head {HERE}:Flat: build returned a NoneType; it has to return a module"),
        ({"loss": "nothing"}, rf"loss {HERE}:Apart: build returned a NoneType; it has to return"),
        ({"encoder": "a tensor"}, "preprocess Lengths gave a Tensor; it has to give a dict of"),
        ({"encoder": "lists"}, "preprocess Lengths gave a list in a dict; it has to give a dict"),
        ({"encoder": "tokens"}, r"text: .* features of a batch of 3 have the shape \(3, 1, 3\);"),
        ({"encoder": "narrow"}, "features are 2 wide, but the module says 3; choose another enc"),
        ({"encoder": "a list"}, r"forward gives a list; .* let it return \[B, out_dim\]$"),
        ({"head": 5}, rf"head {HERE}:Flat: forward gave embeddings of the shape \(4, 5\); .*4\]"),
        ({"loss": "rows"}, rf"loss {HERE}:Apart: forward gave shape \(4,\) and a dict; it has to"),
        ({"loss": "bare"}, r"forward gave shape \(\); it has to give a scalar tensor and a dict"),
    ],
)
def test_a_part_that_breaks_a_contract_is_one_line(tmp_path, parts, said):
    with pytest.raises(SpecError, match=said) as caught:
        run(tmp_path, **parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "tokens",
            rf"encoder {HERE}:Texts: forward gave features of the shape \(8, 1, 3\); .*3\]",
        ),
        ("narrow", r"features of the shape \(8, 2\); it has to give \[B, 3\]"),
        ("a list", r"features of a list; it has to give \[B, 3\]"),
    ],
)
def test_an_encoder_that_breaks_one_embeds_nothing(how, said):
    model = build_model(spec(encoder=how)["model"])
    with pytest.raises(SpecError, match=said):
        model.embed("text", ["a", "aa"])


def test_a_head_that_breaks_one_embeds_nothing():
    model = build_model(spec(head={"type": FLAT, "how": "turned"})["model"])
    for _ in range(2):  # also when asked again
        with pytest.raises(SpecError, match=f"^head {FLAT}: its embeddings change by .* features$"):
            model.embed("text", ["a", "aa"])


def test_weights_that_are_replaced_in_a_run_are_told_before_they_are_saved(tmp_path):
    said = (
        r"text.encoder.net.0.weight \(encoder .*:Texts\) is new since training began, .* in place$"
    )
    with pytest.raises(TrainingError, match=said):
        run(tmp_path, encoder="another weight")


def test_a_loss_that_loses_its_scale_in_a_run_is_one_line(tmp_path):
    said = r"^model.loss: loss .*:Apart: ApartModule has no log_scale any more; let it keep the one"
    with pytest.raises(SpecError, match=said):
        run(tmp_path, loss="no scale")


@pytest.mark.slow
def test_embeddings_that_are_0_or_all_the_same_are_told_before_the_first_step(tmp_path, capsys):
    parts = toy_dict(tmp_path / "data", epochs=1)
    for modality, how in (("text", "zero"), ("image", "same")):
        head = {"type": FLAT, "width": 32, "how": how}
        parts["model"]["towers"][modality]["head"] = head
    with pytest.warns(UserWarning, match="a row of b is 0, without a direction; see why its net"):
        train(parts, tmp_path / "run")
    first = capsys.readouterr().err.partition("epoch 1: ")[0]
    zero = "doctor: zero-embeddings: all text embeddings are 0; look for what makes them so in the "
    assert zero in first
    assert "all image embeddings are the same before the first step; see that image s" in first
    found = [x["finding"]["code"] for x in read_log(tmp_path / "run/log.jsonl") if "finding" in x]
    assert found == ["zero-embeddings"]


@pytest.mark.parametrize("how", ["", "large ids", "a generator"])
def test_parts_that_keep_them_train(how, tmp_path):
    run(tmp_path, data=how)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nothing", "a NoneType holds no rows of data; give a built dataset, or a list of dicts"),
        ("a class", "Half holds no rows of data; it is a class; give an object of it"),
        ("half a length", "the length of a Half is not known: .*; let __len__ return a count"),
        ("texts", "row 0 of the data is a str; give dicts, such as"),
        ("ids that are floats", "the id of row 0 is 0.5; ids are integers or strings"),
        ("labels that are numbers", "the label of row 0 is an int; give the name of its class"),
        ("bad rows", "its bad_rows are an int; give a contrastive.interface.BadRows"),
    ],
)
def test_rows_that_are_none_are_told_with_their_dataset(tmp_path, how, said):
    with pytest.raises(DataError, match=f"^dataset {HERE}:Letters: {said}") as caught:
        run(tmp_path, data=how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "said"), [("a text that is none", "None"), ("a text of pandas", "nan")]
)
def test_a_sample_without_a_value_is_a_mistake_of_the_data(how, said, tmp_path):
    with pytest.raises(DataError, match=rf"^1 of 32 .* \(max_bad: 0\): row 5: {said} is no sample"):
        run(tmp_path, data=how)


@pytest.mark.parametrize(
    ("parts", "who", "remedy"),
    [
        ({"encoder": "detached"}, "Texts", {"frozen": "encoder"}),
        ({"head": {"type": FLAT, "how": "detached"}}, "Flat", {"frozen": "all"}),
    ],
)
def test_a_part_that_no_gradient_reaches_is_told_at_the_first_step(
    tmp_path, parts, who, remedy, capsys
):
    frozen = remedy["frozen"]
    run(tmp_path / "first", **parts)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "no gradient reaches" in x]
    assert f":{who}: its forward detaches; let it not, or set" in line
    assert line.endswith(f"set towers.text.frozen: {frozen}")
    given = spec(**parts)
    given["model"]["towers"]["text"] |= remedy
    if frozen == "encoder":
        given["model"]["towers"]["text"]["head"] = {"type": "mlp", "dropout": 0.1}
        train(RunSpec.model_validate(given), tmp_path / "run")
    else:  # with all frozen there is nothing to train but the scale: views have to differ
        with pytest.raises(TrainingError, match="the two views of each text are the same"):
            train(RunSpec.model_validate(given), tmp_path / "run")


@pytest.mark.parametrize("how", ["", "nothing"])
def test_python_looks_for_no_garbage_while_an_encoder_is_built(how):
    assert gc.isenabled()
    with nullcontext() if how == "" else pytest.raises(SpecError, match="build returned a None"):
        build_model(spec(encoder=how)["model"])
    assert COLLECTS[-1] is False
    assert gc.isenabled()
