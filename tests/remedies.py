"""Where remedies are carried out, and how what is told is caught; for the tests of remedies."""

import pytest
import torch

from contrastive import build_model
from contrastive.errors import ContrastiveError
from tests.toys import tiny_model, write_noise

TEXTS = ["a dog", "a cat", "two birds"]


@pytest.fixture(autouse=True, scope="module")
def here(tmp_path_factory, **_):
    """Return a folder with images and captions, in which all are carried out."""
    folder = tmp_path_factory.mktemp("here")
    write_noise(folder)
    rows = [f"{i}.png,{text},test" for i, text in enumerate(TEXTS)]
    (folder / "captions.csv").write_text("\n".join(["image,text,split", *rows]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_model("infonce")).eval()


def told(act) -> str:
    with pytest.raises((ContrastiveError, ValueError)) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)
