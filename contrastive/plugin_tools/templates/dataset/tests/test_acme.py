import csv

import pytest
from contrastive.interface import DataError, datasets
from contrastive.testing import check_component
from PIL import Image

from contrastive_acme import AcmeDataset

COLORS = ("red", "green", "blue", "white")


@pytest.fixture
def file(tmp_path):
    """Write four images with two captions each."""
    rows = [("image", "text", "split")]
    for color in COLORS:
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{color}.png")
        split = "test" if color == "white" else "train"
        rows += [(f"{color}.png", text, split) for text in (color, f"all {color}")]
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows(rows)
    return tmp_path / "pairs.csv"


def test_a_spec_finds_it_by_its_name():
    assert datasets["acme"] is AcmeDataset


def test_it_keeps_the_promises_of_a_dataset(file):
    check_component(AcmeDataset(file=file))


def test_captions_of_one_image_share_an_id(file):
    rows = AcmeDataset(file=file).build("train+test")
    assert [row["id"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert rows[7]["text"] == "all white"
    assert rows[7]["source"] == "pairs.csv:9"


def test_an_unknown_split_is_an_error_that_names_those_there_are(file):
    with pytest.raises(DataError, match="no split val; there are: test, train"):
        AcmeDataset(file=file).build("val")
