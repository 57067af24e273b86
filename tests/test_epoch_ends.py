"""What happens at the end of an epoch, and what the progress line says of the steps before."""

import re

import pytest
import torch

from contrastive import build_model
from contrastive.features.cache import FeatureCache
from contrastive.nn.modes import embedding_in
from contrastive.training import batches, recorder
from contrastive.training.data_wait import DataWait
from contrastive.training.train import train
from tests.toys import tiny_model, toy_spec, write_noise

pytestmark = pytest.mark.slow


def noted_types(module, found):
    """Note in what type the products of a module are."""

    def note(part, args, output):
        if isinstance(output, torch.Tensor):
            found.add((part.training, output.dtype))

    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(note)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_an_epoch_is_measured_in_the_precision_of_training(tmp_path, monkeypatch, precision):
    expected = torch.bfloat16 if precision == "bf16" else torch.float32
    found, real = set(), recorder.evaluate

    def evaluate(model, *args, **how):
        noted_types(model.tower("text"), found)
        return real(model, *args, **how)

    monkeypatch.setattr(recorder, "evaluate", evaluate)
    spec = toy_spec(tmp_path / "data", precision=precision, epochs=1)
    train(spec, tmp_path / "run", cache=FeatureCache(tmp_path / "cache"))
    assert found == {(False, expected)}


def test_a_model_embeds_in_bf16_in_a_block_only_and_caches_fp32(tmp_path):
    spec = tiny_model("infonce")
    spec["towers"]["image"]["frozen"] = "encoder"
    model, paths = build_model(spec), write_noise(tmp_path)
    caches = [FeatureCache(tmp_path / name) for name in ("a", "b")]
    texts, images = (model.embed(m, x) for m, x in (("text", ["a", "b"]), ("image", paths)))
    cached = model.embed("image", paths, cache=caches[0])
    with embedding_in(torch.bfloat16):
        half = model.embed("text", ["a", "b"])
        model.embed("image", paths, cache=caches[1])
    assert half.dtype == torch.float32
    assert not torch.equal(half, texts)
    torch.testing.assert_close(half, texts, rtol=0.05, atol=0.05)
    assert torch.equal(model.embed("text", ["a", "b"]), texts)
    assert torch.equal(model.embed("image", paths), images)
    assert torch.equal(model.embed("image", paths, cache=caches[1]), cached)


def test_the_share_of_time_that_data_are_waited_for_is_that_of_the_latest_steps():
    now = [0.0]

    def items():
        for seconds in [9.0] + [1.0] * 99:
            now[0] += seconds
            yield seconds

    wait = DataWait(items(), clock=lambda: now[0])
    assert wait.share == 0
    shares = []
    for _ in wait:
        shares.append(wait.share)
        now[0] += 3
    assert shares[0] == 1
    assert shares[1] > 0.5
    assert shares[-1] == pytest.approx(0.25, abs=1e-3)


def test_the_workers_of_a_run_are_those_of_all_its_epochs(tmp_path, monkeypatch):
    started, real = [], batches.map_in_workers

    def counted(job, groups, *, workers):
        started.append(workers)
        return real(job, groups, workers=0)

    monkeypatch.setattr(batches, "map_in_workers", counted)
    train(toy_spec(tmp_path / "data", epochs=3, workers=2), tmp_path / "run")
    assert started == [2]


def test_the_progress_line_has_it(tmp_path, capsys):
    train(toy_spec(tmp_path / "data", epochs=1), tmp_path / "run")
    last = [line for line in capsys.readouterr().err.splitlines() if "training: 4/4" in line]
    assert re.search(r"loss \d\.\d{3}  scale \d+\.\d  data \d+ %$", last[0])
