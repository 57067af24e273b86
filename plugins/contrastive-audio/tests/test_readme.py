"""The README's examples are specs."""

import re
from pathlib import Path

import pytest

from contrastive import RunSpec
from contrastive.interface import load_spec

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_each_is_valid(name, block, tmp_path, command):
    (tmp_path / name).write_text(block)
    assert command("validate", tmp_path / name).code == 0


def test_the_one_of_three_modalities_is_the_one_that_the_tests_train(run, tmp_path):
    (tmp_path / "spoken.yaml").write_text(dict(BLOCKS)["spoken.yaml"])
    written = load_spec(RunSpec, tmp_path / "spoken.yaml")
    pairs = [["audio", "text"], ["image", "text"]]
    trained = RunSpec.model_validate(run("audio", "text", "image", pairs=pairs))
    assert written.model_copy(update={"data": trained.data}) == trained
