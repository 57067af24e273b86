"""What is told of samples and embeddings is done to them, and then they are taken."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from contrastive.interface import BatchGroup
from contrastive.losses import execution, losses
from contrastive.losses.hard_negative import hard_negative
from tests import remedies
from tests.remedies import TEXTS, told

here, model = remedies.here, remedies.model


def of(library, make):
    """Return something of a library that need not be there, made when it is asked for."""
    return lambda: make(pytest.importorskip(library))


def text_file():
    return Path("0.png").open(encoding="latin-1")


COLUMN, OTHER = {"text": TEXTS}, {"caption": TEXTS}
RGB = np.zeros((6, 5, 3), np.uint8)
SAMPLES = [  # the modality, what is given, what is told, and what is given instead
    (
        "text",
        of("pandas", lambda p: p.DataFrame(OTHER)),
        "such as frame['caption']",
        of("pandas", lambda p: p.DataFrame(OTHER)["caption"]),
    ),
    (
        "text",
        of("polars", lambda p: p.DataFrame(OTHER)),
        "such as frame['caption']",
        of("polars", lambda p: p.DataFrame(OTHER)["caption"]),
    ),
    (
        "text",
        of("datasets", lambda d: d.Dataset.from_dict(OTHER)),
        "such as frame['caption']",
        of("datasets", lambda d: d.Dataset.from_dict(OTHER)["caption"]),
    ),
    (
        "text",
        of("datasets", lambda d: d.DatasetDict({"train": d.Dataset.from_dict(COLUMN)})),
        "such as dataset['train']['text']",
        of(
            "datasets",
            lambda d: d.DatasetDict({"train": d.Dataset.from_dict(COLUMN)})["train"]["text"],
        ),
    ),
    (
        "text",
        of("pyarrow", lambda a: a.table(OTHER)),
        "such as table['caption']",
        of("pyarrow", lambda a: a.table(OTHER)["caption"]),
    ),
    (
        "text",
        lambda: DataLoader(TEXTS),
        "such as a column of its dataset",
        lambda: DataLoader(TEXTS).dataset,
    ),
    ("text", lambda: set(TEXTS), "give a list", lambda: list(set(TEXTS))),
    ("text", lambda: 7, "give a str, or a list of them", lambda: "7"),
    ("text", lambda: 7, "or a list of them", lambda: ["7"]),
    ("text", lambda: torch.arange(5), "give strings, not tokens", lambda: TEXTS),
    ("text", lambda: np.array([TEXTS]), "give a 1-D one", lambda: np.array(TEXTS)),
    ("text", lambda: ["a", 7], "is no text; give a str", lambda: ["a", "7"]),
    ("image", lambda: None, "give one, or a list", lambda: "0.png"),
    ("image", lambda: 7, "give one, or a list", lambda: ["0.png"]),
    ("image", lambda: [7], "give a path", lambda: ["0.png"]),
    ("image", lambda: [7], "a file's bytes", lambda: [Path("0.png").read_bytes()]),
    ("image", lambda: [7], "a PIL image", lambda: [Image.open("0.png")]),
    ("image", lambda: [7], "or an array", lambda: [RGB]),
    ("image", lambda: np.zeros((5, 6, 7), np.uint8), "give [H, W]", lambda: RGB[..., 0]),
    ("image", lambda: np.zeros((5, 6, 7), np.uint8), "[H, W, C]", lambda: RGB),
    (
        "image",
        lambda: np.zeros((5, 6, 7), np.uint8),
        "or [C, H, W]",
        lambda: RGB.transpose(2, 0, 1),
    ),
    ("image", lambda: RGB + 300.0, "give integers from 0 to 255", lambda: RGB),
    ("image", lambda: RGB + 300.0, "or floats from 0 to 1", lambda: RGB / 255),
    (
        "image",
        lambda: np.ma.masked_equal(RGB, 0),
        "array.filled(255)",
        lambda: np.ma.masked_equal(RGB, 0).filled(255),
    ),
    ("image", lambda: {"caption": "a"}, "an image has bytes or path", lambda: {"path": "0.png"}),
    (
        "image",
        lambda: "https://a.org/0.png",
        "download the image and give its path",
        lambda: "0.png",
    ),
    (
        "image",
        text_file,
        "or open it with mode 'rb'",
        lambda: Path("0.png").open("rb"),  # noqa: SIM115
    ),
    ("image", text_file, "give its path", lambda: "0.png"),
    (
        "image",
        lambda: ".",
        "give the files in it, as by FOLDER/*.jpg",
        lambda: [*Path().glob("*.png")],
    ),
]


@pytest.mark.parametrize(("modality", "wrong", "said", "right"), SAMPLES)
def test_samples_are_given_as_is_told(model, modality, wrong, said, right):
    given, instead = wrong(), right()
    assert said in told(lambda: model.embed(modality, given))
    assert len(model.embed(modality, instead))
    for each in (given, instead):
        getattr(each, "close", list)()  # if it is a file


PAIR = normalize(torch.randn(3, 8), dim=1), normalize(torch.randn(3, 8), dim=1)
IDS = torch.tensor([0, 1, 1])
A, B = PAIR


def infonce(a=A, b=B, a_ids=None, *, temperature=0.1, **how):
    return lambda: execution.infonce(a, b, a_ids, temperature=temperature, **how)


def hard(**how):
    return lambda: hard_negative(A, B, log_scale=1.0, **{"beta": 0.5, "tau_plus": 0.1} | how)


LOSSES = [
    (infonce(A.numpy()), "give a tensor [N, D]", infonce(torch.from_numpy(A.numpy()))),
    (infonce(A.to_sparse()), "give a dense tensor", infonce(A.to_sparse().to_dense())),
    (infonce(A.long()), "of floating-point numbers of 16", infonce(A.half(), B.half())),
    (infonce(a_ids=[0, 1, 1]), "torch.tensor(a_ids)", infonce(a_ids=torch.tensor([0, 1, 1]))),
    (infonce(a_ids=IDS.float()), "a_ids.long()", infonce(a_ids=IDS.float().long())),
    (infonce(A.to("meta"), B.to("meta")), "give it on a CPU or GPU", infonce(A.cpu(), B)),
    (infonce(a_ids=IDS.to("meta")), "give a_ids.to('cpu')", infonce(a_ids=IDS.to("cpu"))),
    (infonce(positives="x"), "give one of multi, mask, ignore", infonce(positives="multi")),
    (infonce(label_smoothing=2), "give a number from 0 to 1", infonce(label_smoothing=0.5)),
    (infonce(temperature=None), "give one of log_scale and temp", infonce(temperature=0.1)),
    (infonce(log_scale=1.0), "give one of", infonce(temperature=None, log_scale=1.0)),
    (infonce(temperature=torch.ones(2)), "give one real number", infonce(temperature=1.0)),
    (infonce(temperature="x"), "give one number", infonce(temperature=0.1)),
    (infonce(group="all"), "give BatchGroup.current()", infonce(group=BatchGroup.current())),
    (infonce(group="all"), "or None for one process", infonce(group=None)),
    (hard(execution="fused"), "take auto, eager or chunked", hard(execution="chunked")),
    (hard(beta=-1), "give a number of at least 0", hard(beta=0.0)),
    (hard(tau_plus=1), "from 0 to less than 1", hard(tau_plus=0.0)),
]


@pytest.mark.parametrize(("wrong", "said", "right"), LOSSES)
def test_a_loss_is_given_what_is_told(wrong, said, right):
    assert said in told(wrong)
    assert right().isfinite()


def test_a_loss_of_embeddings_that_are_not_normalised_is_given_what_is_told():
    loss = losses["infonce"]().build()
    with pytest.warns(UserWarning, match="not L2-normalised") as warned:
        loss(2 * A, B)
    a = 2 * A
    code = str(warned[0].message).rpartition("give ")[2]
    loss = losses["infonce"]().build()
    loss(eval(code, {"torch": torch, "a": a}), B)


def test_a_distillation_is_called_as_is_told():
    loss = losses["distillation"](loss=losses["infonce"]()).build()
    assert "call the loss with teacher_a= and teacher_b=" in told(lambda: loss(A, B))
    assert loss(A, B, teacher_a=A, teacher_b=B)[0].isfinite()


def test_a_width_is_lowered_as_is_told():
    kind = losses["matryoshka"]
    assert told(lambda: kind(widths=[16], loss=losses["infonce"]()).build()(A, B)).endswith(
        "lower it"
    )
    kind(widths=[8], loss=losses["infonce"]()).build()(A, B)


def test_an_image_that_is_too_much_is_made_smaller_or_saved_anew_as_is_told(model, tmp_path):
    Image.new("L", (1, 200_000)).save(tmp_path / "long.png")
    assert told(lambda: model.embed("image", tmp_path / "long.png")).endswith("make it smaller")
    Image.open(tmp_path / "long.png").resize((8, 8)).save(tmp_path / "long.png")
    model.embed("image", tmp_path / "long.png")
    Image.fromarray(RGB).resize((32, 32)).save(tmp_path / "scans.jpg", progressive=True)
    whole = (tmp_path / "scans.jpg").read_bytes()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    (tmp_path / "scans.jpg").write_bytes(whole[:-2] + 200 * scan + whole[-2:])
    assert told(lambda: model.embed("image", tmp_path / "scans.jpg")).endswith("save it anew")
    Image.open(tmp_path / "scans.jpg").save(tmp_path / "anew.jpg")
    model.embed("image", tmp_path / "anew.jpg")


@pytest.mark.filterwarnings("ignore:.*is now")
def test_a_field_under_two_names_is_given_under_the_one_that_is_told():
    given = {"products": "bf16", "matmul_dtype": "bf16"}
    said = told(lambda: losses["infonce"](**given))
    del given[re.search("remove (.*)$", said)[1]]
    assert losses["infonce"](**given).matmul_dtype == "bf16"
