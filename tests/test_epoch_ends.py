"""What happens at the end of an epoch, and what the progress line says of the steps before."""

import re

import pytest
import torch

from contrastive import build_model, load_model
from contrastive.errors import SpecError
from contrastive.evaluation.evaluate import EvaluationReport
from contrastive.features.cache import FeatureCache
from contrastive.nn.modes import embedding_in
from contrastive.training import batches, recorder
from contrastive.training.data_wait import DataWait
from contrastive.training.train import train
from tests.toys import tiny_model, toy_dict, toy_spec, write_noise

pytestmark = pytest.mark.slow

BEST = "image_to_text.R@1"


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


@pytest.mark.parametrize("keep", [{}, {"last": 1}, {"best": BEST}, {"last": 1, "best": BEST}])
def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path, monkeypatch, capsys, keep):
    values = iter([0.2, 0.5, 0.5, 0.4, 0.5])
    reports = []  # with their values: one is read more than once
    interrupted = toy_spec(tmp_path / "data", images=24, epochs=5, keep=keep)
    size = 2  # steps of an epoch

    def rows(report):
        if not any(report is known for known, _ in reports):
            reports.append((report, next(values)))
        (value,) = (value for known, value in reports if known is report)
        return [{"metric": BEST.replace(".", " "), "value": value}]

    monkeypatch.setattr(EvaluationReport, "rows", rows)
    monkeypatch.setattr(recorder, "check_up", ends_at(3 * size))
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr(EvaluationReport, "rows", rows)
    values = iter([0.5, 0.4, 0.5])  # the third epoch is measured again
    train(interrupted, tmp_path / "run", resume=True)
    there = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    kept = [5] if "last" in keep else [4, 5]
    kept = [2, *kept] if "best" in keep else kept
    assert there == [f"step-{epoch * size:08d}" for epoch in kept]
    place = tmp_path / "run" / "checkpoints" / f"step-{2 * size:08d}"
    told = f"best image_to_text.R@1: 50.0%, of {place}"
    assert (told in capsys.readouterr().err) == ("best" in keep)
    if "best" in keep:
        assert load_model(place).seen.keys() == {"image"}


def ends_at(last):
    """Return what stands for the check after an epoch, and is interrupted in one."""

    def check_up(log, spec, model, batches, held_out, step, norms):
        if step == last:
            raise KeyboardInterrupt

    return check_up


def test_a_metric_that_is_not_measured_is_refused_or_told(tmp_path, capsys):
    spec = toy_dict(tmp_path / "data", images=8, epochs=1, keep={"best": "zero-shot.top-1"})
    train(spec, tmp_path / "run")
    assert (
        "zero-shot.top-1 is not measured; there are: image_to_text.R@1" in capsys.readouterr().err
    )
    for best, field, message in (
        (
            "audio_to_text.R@1",
            {},
            "no audio_to_text is measured; there are: image_to_text, text_to",
        ),
        (BEST, {"split": None}, f"{BEST} is not measured without evaluation.split; set it"),
        ("recall", {}, "training.keep.best: "),
    ):
        spec["training"]["keep"], spec["evaluation"] = {"best": best}, field
        with pytest.raises(SpecError, match=message):
            train(spec, tmp_path / "other")
