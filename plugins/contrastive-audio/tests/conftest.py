import csv

import pytest
import torch
from PIL import Image

from tests.conftest import _own_cache, command  # noqa: F401  (fixtures)

from .speech import VOICES, recorded

COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 150, 40),
    "blue": (30, 50, 200),
    "yellow": (240, 220, 40),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "orange": (250, 140, 20),
    "purple": (120, 30, 150),
    "pink": (250, 160, 190),
    "brown": (110, 70, 30),
    "gray": (130, 130, 130),
    "turquoise": (60, 210, 200),
}
SPLITS = {"train": VOICES[:6], "val": VOICES[6:7], "test": VOICES[7:]}
TAKES = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def spoken(tmp_path_factory):
    """A folder of colours said by ten voices, each with its word and a square of the colour.

    The voices of ``val`` and ``test`` say nothing in ``train``, and no two squares are the same.
    """
    import soundfile

    folder = tmp_path_factory.mktemp("spoken")
    rows = []
    for split, voices in SPLITS.items():
        for voice in voices:
            for word, colour in COLOURS.items():
                for _ in range(TAKES[split]):
                    number = len(rows)
                    stem = f"{split}/{word}-{number}"
                    (folder / split).mkdir(exist_ok=True)
                    samples, sample_rate = recorded(word, voice, seed=number)
                    soundfile.write(folder / f"{stem}.flac", samples, sample_rate)
                    shift = number % 9 - 4, number // 9 % 9 - 4, number // 81 % 9 - 4
                    near = tuple(c + s for c, s in zip(colour, shift, strict=True))
                    Image.new("RGB", (32, 32), near).save(folder / f"{stem}.png")
                    rows.append([f"{stem}.flac", f"{stem}.png", word, word, word, split])
    with (folder / "captions.csv").open("w", newline="") as file:
        header = ["audio", "image", "text", "group", "label", "split"]
        csv.writer(file).writerows([header, *rows])
    return folder


@pytest.fixture(scope="session")
def run(spoken):
    """Build the spec of a run that learns the spoken words in seconds."""

    def build(*modalities, **model):
        towers = {
            "audio": {
                "encoder": {
                    "type": "log-mel",
                    "seconds": 0.7,
                    "mels": 40,
                    "width": 64,
                    "depth": 2,
                    "dropout": 0.0,
                },
                "head": {"type": "linear"},
            },
            "text": {
                "encoder": {"type": "cbow", "width": 32, "buckets": 512},
                "head": {"type": "linear"},
            },
            "image": {
                "encoder": {"type": "resnet", "width": 8, "image_size": 32},
                "head": {"type": "linear"},
            },
        }
        return {
            "model": {
                "embed_dim": 32,
                "towers": {modality: towers[modality] for modality in modalities},
                "loss": {"type": "infonce"},
            }
            | model,
            "data": {"type": "audio-folder", "folder": str(spoken)},
            "training": {"epochs": 12, "batch_size": 48, "lr": 2e-3, "workers": 0},
            "evaluation": {"split": None, "templates": ["{}"]},
        }

    return build
