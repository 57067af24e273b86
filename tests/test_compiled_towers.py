"""``training.compile: towers``: the same run but for rounding, and no other names."""

import pytest
import torch
from safetensors.torch import load_file

from contrastive import load_model
from contrastive.errors import TrainingError
from contrastive.reporting.run_log import read_log
from contrastive.training import built
from contrastive.training.train import train
from tests.toys import toy_dict

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("fresh_compiler"),
    # the compiler of torch 2.10 does so
    pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning"),
]
COUNTED = []


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    COUNTED.clear()
    yield
    torch._dynamo.reset()


def counting(graph, inputs):
    """Be a backend that runs what it is given."""
    COUNTED.append(graph)
    return graph.forward


def refusing(graph, inputs):
    raise RuntimeError("no C++ compiler is here\nand more lines")


def spec(data, **settings):
    toy = toy_dict(data, epochs=1, checkpoint_every=2, **settings)
    vit = {"type": "vit", "image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
    toy["model"]["towers"]["image"] |= {"encoder": vit, "frozen": "none"}
    return toy


def losses(run):
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


def test_a_compiled_run_is_the_plain_run_and_resumes_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(built, "BACKEND", counting)
    train(spec(tmp_path / "data"), tmp_path / "plain")
    assert not COUNTED
    compiled = spec(tmp_path / "data", compile="towers")
    model = train(compiled, tmp_path / "compiled")
    found = len(COUNTED)
    assert found
    samples, loaded = ["a red circle", "a square"], load_model(tmp_path / "compiled")
    assert torch.equal(model.embed("text", samples), loaded.embed("text", samples))
    assert len(COUNTED) == found, "the model that is returned is compiled"
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    runs = [tmp_path / run / "model" / "model.safetensors" for run in ("plain", "compiled")]
    plain, weights = map(load_file, runs)
    assert plain.keys() == weights.keys()
    checkpoints = tmp_path / "compiled" / "checkpoints"
    before = losses(tmp_path / "compiled")
    (checkpoints / "step-00000004" / "model.safetensors").unlink()
    torch._dynamo.reset()
    train(compiled, tmp_path / "compiled", resume=True)
    assert losses(tmp_path / "compiled") == before
    again = load_file(tmp_path / "compiled" / "model" / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in again)


def test_what_cannot_be_compiled_is_one_line_whose_remedy_works(tmp_path, monkeypatch):
    monkeypatch.setattr(built, "BACKEND", refusing)
    with pytest.raises(TrainingError, match=r"no C\+\+ compiler is here") as error:
        train(spec(tmp_path / "data", compile="towers"), tmp_path / "run")
    assert str(error.value).startswith("training.compile: an encoder cannot be compiled (")
    assert str(error.value).endswith("); set it to off")
    assert "\n" not in str(error.value)
    train(spec(tmp_path / "data", compile="off"), tmp_path / "other")
