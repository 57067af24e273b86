import pytest
import torch

from tests.conftest import _own_cache, command  # noqa: F401  (fixtures)

from .speech import write_spoken


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def spoken(tmp_path_factory):
    """A folder of colours said by ten voices, as ``write_spoken`` leaves it."""
    return write_spoken(tmp_path_factory.mktemp("spoken"))


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
