"""The model card: figures that were measured, of data that the model has not seen."""

import re
import shutil
from dataclasses import replace

import pytest
import torch

import contrastive
from contrastive import RunSpec
from contrastive.datasets import Flickr30k, miniature
from contrastive.datasets.built_split import split_reader
from contrastive.errors import DataError, SpecError
from contrastive.evaluation.truncation import truncated_share
from contrastive.exporters import record
from contrastive.exporters.record import Record
from contrastive.model import hub
from contrastive.reporting.clip_benchmark import dataset_name
from tests.exports import here
from tests.miniature import write_flickr30k
from tests.toys import tiny_model, toy_spec


@pytest.fixture(autouse=True)
def _compared_here(monkeypatch):
    monkeypatch.setattr("contrastive.exporters.verification.compared", here)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    torch.manual_seed(0)
    spec = toy_spec(folder / "data", images=60)
    contrastive.train(spec, folder / "run")
    return folder / "run"


def test_the_card_of_an_export_has_the_figures_of_evaluate(run, command, tmp_path):
    done = command("export", "--to", "contrastive", "-m", run, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    card = (tmp_path / "out" / "README.md").read_text()
    model, spec = contrastive.load_model(run), toy_spec(run.parent / "data")
    samples = split_reader(spec.data)("test")
    report = contrastive.evaluate(model, samples, split="test")
    for name, direction in report.retrieval.items():
        for k, found in direction.recall.items():
            row = f"| {name.replace('_', ' ')} R@{k} | {found.value:.1%} | {found.low:.1%} to "
            assert row + f"{found.high:.1%} | {found.chance:.1%} |" in card
    assert "2 epochs of batches of 16" in card
    assert "None of its images was trained on" in card
    assert "reads every caption to its end" in card
    assert "; `python verify.py` measures it again" in card
    assert 'load_model("out")' in card
    assert "--model out -o exported" in card
    assert "# out\n" in card
    assert "Not stated" in card
    assert str(run.parent) not in card
    parsed = pytest.importorskip("huggingface_hub").ModelCard(card).data
    assert {found.metric_type for found in parsed.eval_results} == {
        "recall_at_1",
        "recall_at_5",
        "recall_at_10",
    }
    assert "Not possible" in card.partition("### transformers")[2].partition("###")[0]


def test_what_is_refused_is_refused_before_anything_is_measured(
    run, command, tmp_path, monkeypatch
):
    monkeypatch.setattr(record, "measured", lambda *_, **__: pytest.fail("was measured"))
    made = []
    monkeypatch.setattr(hub, "check_repository", lambda name, **_: made.append(name))
    out = tmp_path / "out"
    for more, said in {
        ("--to", "transformers"): "no place for",
        ("--to", "onnx", "--tower", "audio"): "has no audio tower",
        ("--to", "contrastive", "--int8"): "int8: ",
        ("--to", "contrastive", "--private"): "--private: .* by --push OWNER/NAME",
    }.items():
        push = () if "--private" in more else ("--push", "me/toy")
        done = command("export", *more, "-m", run, "-o", out, *push)
        assert done.code == 2
        assert re.search(said, done.err)
        assert len(done.err.splitlines()) == 1
    assert made == []


def test_the_card_of_a_checkpoint_measured_elsewhere_says_both(run, command, tmp_path):
    write_flickr30k(tmp_path / "other", images=24)
    shutil.copytree(run / "checkpoints", tmp_path / "run" / "checkpoints")
    shutil.copy(run / "log.jsonl", tmp_path / "run" / "log.jsonl")
    *older, newest = sorted((tmp_path / "run" / "checkpoints").iterdir())
    for folder in older:
        shutil.rmtree(folder)
    newest.rename(newest.with_name("step-00000003"))  # as if it had been stopped
    data = f"type=flickr30k,folder={tmp_path / 'other'}"
    given = ("-m", tmp_path / "run", "-o", tmp_path / "out", "--data", data)
    done = command("export", "--to", "contrastive", *given)
    assert done.code == 0, done.err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "saved after 3 steps, before the run had ended" in card
    assert "2 epochs of batches of 16" in card  # of the run, not of the data


def test_figures_of_seen_data_are_refused(run, command, tmp_path):
    out = tmp_path / "out"
    done = command("export", "--to", "contrastive", "-m", run, "-o", out, "--split", "train")
    assert (done.code, out.exists()) == (2, False)
    assert "measure on a split that it has not seen" in done.err
    model, spec = contrastive.load_model(run), toy_spec(run.parent / "data")
    report = contrastive.evaluate(model, split_reader(spec.data)("test"), split="test")
    assert "## Measured" in contrastive.model_card(model, report)
    with pytest.raises(DataError, match="has none of seen data"):
        contrastive.model_card(model, replace(report, split="train"))
    with pytest.raises(SpecError, match="record: what evaluate returned"):
        contrastive.model_card(model, {"R@1": 0.9})


def test_a_model_that_does_not_know_what_it_was_trained_on_is_not_said_to_have_seen_nothing():
    towers = {"text": {"encoder": {"type": "cbow", "width": 8}, "head": {"type": "linear"}}}
    spec = {"embed_dim": 8, "towers": towers, "loss": {"type": "infonce"}}
    spec["pairs"] = [("text", "text")]
    model, rows = (
        contrastive.build_model(spec),
        [{"text": f"text {i}", "id": i // 2} for i in range(8)],
    )
    report = contrastive.evaluate(model, rows, split="full")
    card = contrastive.model_card(model, report)
    assert "has not seen" not in card
    assert "None of its" not in card
    assert "Whether training has seen some of it is not known" in card
    run = RunSpec.model_validate(
        {
            "model": spec,
            "data": {"type": "lines", "file": "texts.txt"},
            "training": {"split": "full"},
            "evaluation": {"split": None},
        }
    )
    with pytest.raises(DataError, match="has none of seen data"):
        contrastive.model_card(model, Record(report=report, run=run))


def test_the_card_calls_generated_data_generated(tmp_path):
    miniature.write_flickr30k(tmp_path / "generated", images=6)
    write_flickr30k(tmp_path / "real", images=6)
    (tmp_path / "8k").mkdir()
    (tmp_path / "8k" / "Flickr8k.token.txt").touch()
    names = ("generated", "real", "8k", "gone")
    found = [dataset_name(Flickr30k(folder=tmp_path / name)) for name in names]
    assert found == ["flickr30k-generated-miniature", "flickr30k", "flickr8k", "flickr30k"]
    model = contrastive.build_model(tiny_model("infonce"))
    data = {"type": "flickr30k", "folder": str(tmp_path / "gone")}
    run = RunSpec.model_validate({"model": tiny_model("infonce"), "data": data})
    log = [{"step": 0, "run": {"dataset": found[0]}}]  # wherever the card is written
    card = contrastive.model_card(model, Record(run=run, log=log))
    assert "- data: flickr30k-generated-miniature (flickr30k)" in card


def test_without_data_the_card_says_why_it_has_no_figures():
    model = contrastive.build_model(tiny_model("sigmoid"))
    card = contrastive.model_card(model, Record(why_not="its data are not here", licence="mit"))
    assert "Not measured: its data are not here." in card
    assert "license: mit" in card
    assert re.search(r"Scores are cosines times [\d.]+, plus -?[\d.]+\.", card)


def test_the_share_of_truncated_texts_is_counted_by_words():
    spec = tiny_model("infonce")
    spec["towers"]["text"]["encoder"] |= {"max_length": 5}
    model = contrastive.build_model(spec)
    texts = [
        "one two three",
        "a b c d e",
        "a b c d e f",
        "a b c d e f g h i",
        "one",
        "",
        " ".join("x" * 9),
    ]
    assert truncated_share(model, texts) == pytest.approx(3 / 7)
    assert truncated_share(model, ["one"]) == 0
    assert truncated_share(model, []) is None
