"""``contrastive calibrate``, and what a calibrated model says of its scores."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import contrastive
from contrastive import load_model
from contrastive.datasets.built_split import split_reader
from contrastive.errors import DataError, SpecError
from contrastive.exporters import saved_model
from contrastive.model.calibration_file import store_calibration
from contrastive.model.saved_files import CALIBRATION
from contrastive.model.saved_folder import open_folder, write_folder
from contrastive.model.scores import calibration_of, judge_scores
from tests.toys import toy_spec
from tests.vector_model import vector_model

pytestmark = pytest.mark.slow


@pytest.fixture
def model():
    return vector_model(6)


def rows_of(seed: int, count: int, noise: float = 0.35):
    """Return pairs of vectors that are alike, more or less."""
    random = np.random.default_rng(seed)
    sounds = random.normal(size=(count, 6))
    motions = sounds + noise * random.normal(size=(count, 6))
    pairs = zip(sounds.astype(np.float32), motions.astype(np.float32), strict=True)
    return [{"sound": a, "motion": b, "id": i} for i, (a, b) in enumerate(pairs)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    torch.manual_seed(0)
    contrastive.train(toy_spec(folder / "data", images=120, epochs=3), folder / "run")
    return folder / "run"


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture(scope="module")
def made_calibrated(made):
    """Return a run whose model is calibrated."""
    folder = shutil.copytree(made, made.parent / "calibrated")
    model, samples = load_model(folder), split_reader(toy_spec(made.parent / "data").data)
    contrastive.calibrate(model, samples("val"), samples("test"), fit_split="val")
    store_calibration(model, open_folder(folder / "model"))
    return folder


@pytest.fixture
def calibrated(made_calibrated, tmp_path):
    return shutil.copytree(made_calibrated, tmp_path / "calibrated")


def test_what_is_returned_is_right_as_often_as_asked(model):
    contrastive.calibrate(model, rows_of(0, 600))
    rows = rows_of(1, 800)
    for size, asked in ((100, 0.9), (800, 0.6)):
        right = []
        for start in range(0, 800, size):
            part = rows[start : start + size]
            sounds, motions = (
                model.embed(m, [row[m] for row in part]).numpy() for m in ("sound", "motion")
            )
            judged = judge_scores(
                model, ("sound", "motion"), sounds @ motions.T, items=size, min_precision=asked
            )
            right.extend(np.eye(size, dtype=bool)[judged.is_kept_Qk].tolist())
        assert len(right) > 400
        assert abs(np.mean(right) - asked) < 0.05
    judged = judge_scores(model, ("sound", "motion"), np.ones((1, 800)), items=800)
    assert judged.is_kept_Qk.all()


def test_the_report_judges_other_samples(model):
    report = contrastive.calibrate(model, rows_of(0, 300), rows_of(1, 300), split="test")
    (found,) = report.reliability.values()
    assert found.pairs == 600
    assert found.error < found.of_perfect + 0.03
    assert set(report.rejection) == {"sound_to_motion", "motion_to_sound"}
    assert all(one.area > 0.5 for one in report.rejection.values())
    for one in report.precision:
        if one.right and one.returned > 100 and one.score > -1:
            assert one.right.low - 0.05 < one.asked < one.right.high + 0.05
    assert json.loads(json.dumps(report.as_dict()))["split"] == "test"
    assert len(report.rows()) == 10
    assert "calibration error" in repr(report)
    assert model.calibration is report.calibration


def test_what_cannot_be_calibrated_is_refused(model):
    with pytest.raises(DataError, match="12 matched pairs of sound and motion are too few"):
        contrastive.calibrate(model, rows_of(0, 12))
    shuffled = rows_of(0, 60)
    for i, row in enumerate(shuffled):
        row["motion"] = -row["sound"] * (1 + i % 2)
    with pytest.raises(DataError, match="score no higher than others"):
        contrastive.calibrate(model, shuffled)
    assert model.calibration is None
    rows = rows_of(0, 100)
    with pytest.raises(DataError, match="shares 5 of 65 sound rows with samples that were given"):
        contrastive.calibrate(model, rows, [*rows_of(1, 60), *rows[:5]])
    few = contrastive.calibrate(model, rows_of(0, 30, noise=0.0))
    assert "30 matched pairs are few" in few.notes[0]
    assert "every matched pair of sound and motion scores higher than all others" in few.notes[1]
    dropped = contrastive.calibrate(
        model, rows, [*rows_of(1, 60), *({**row, "id": 99} for row in rows[:5])], shared="drop"
    )
    assert dropped.notes[-1] == "5 rows are left out: they are of samples that were given, too"


def test_without_a_calibration_the_remedy_is_told_and_helps(run, command, capsys):
    search = ("search", "a red circle", "-m", run, "--json")
    assert "probability" not in json.loads(command(*search).out)[0]
    refused = command(*search, "--min-precision", "0.9")
    assert refused.code == 2
    assert "min_precision: the model has no calibration; run: contrastive calibrate" in refused.err
    done = command("calibrate", "-m", run, "--plot", run / "reliability.png")
    assert done.code == 0, done.err
    assert "fitted on the split val" in done.out
    assert "expected calibration error" in done.out
    assert (run / "reliability.png").stat().st_size > 5000
    hits = json.loads(command(*search).out)
    assert all(0 <= hit["probability"] <= 1 for hit in hits)
    chances = [hit["probability"] for hit in hits]
    assert chances == sorted(chances, reverse=True)
    assert re.search(
        "(?m)^image -> text: no result reaches .*0.95; the best ones reach 0", done.out
    )
    never = command(*search, "--min-precision", "1")
    assert (never.code, json.loads(never.out)) == (0, [])
    assert re.search(
        r"no result reaches a precision of 1 among 20 images; the best ones", never.err
    )
    assert re.search(r"no match: the nearest of 20 images, .*, is right with a prob", never.err)
    assert "probability" in command(*search[:-1]).out
    assert command(*search[:-1], "--min-precision", "1").out == ""


def test_classes_answers_and_captions_may_be_none_of_these(calibrated, command):
    run = calibrated
    image = images_of(run)[0]
    asked = ("-m", run, "--json", "--min-precision")
    classify = ("classify", image, "--classes", "red circle,blue square,green cross")
    (all_of,) = json.loads(command(*classify, *asked, "0").out)
    assert all_of["chosen"] == list(all_of["calibrated"])
    assert sum(all_of["probabilities"].values()) == pytest.approx(1)
    (none,) = json.loads(command(*classify, *asked, "1").out)
    assert none["chosen"] == []
    assert none["calibrated"] == all_of["calibrated"]
    assert "none of these (nearest: " in command(*classify, "-m", run, "--min-precision", "1").out
    (alone,) = json.loads(command("classify", image, "--classes", "red circle", *asked, "0").out)
    fit = load_model(run).calibration.pairs["image_text"]
    expected = 1 / (1 + np.exp(-(fit.slope * alone["cosine"] + fit.offset)))
    assert alone["calibrated"]["red circle"] == pytest.approx(expected, abs=1e-4)
    question = ("answer", image, "--question", "what color is it?", "--answers", "red,blue")
    (answered,) = json.loads(command(*question, *asked, "1").out)
    assert answered["chosen"] == []
    assert "none of these" in command(*question, "-m", run, "--min-precision", "1").out
    (captions,) = json.loads(command("caption", image, *asked, "1").out)
    assert captions["captions"] == []
    assert "no match" in command("caption", image, "-m", run, "--min-precision", "1").out
    (captions,) = json.loads(command("caption", image, "-m", run, "--json").out)
    assert all(0 <= one["probability"] <= 1 for one in captions["captions"])

    model = load_model(run)
    names = ["red circle", "blue square", "green cross"]
    own = contrastive.classify(model, image, names, min_precision=0)
    assert own[0].tolist() == pytest.approx([*all_of["calibrated"].values()], abs=1e-5)
    assert not contrastive.classify(model, image, names, min_precision=1).any()
    assert not contrastive.answer(model, image, "what is it?", names, min_precision=1).any()
    assert contrastive.caption(model, image, names, min_precision=1) == [[]]
    with pytest.raises(SpecError, match="min_precision is 2; give a number from 0 to 1"):
        contrastive.classify(model, image, names, min_precision=2)


def images_of(run):
    spec = json.loads((run / "model" / "run.json").read_text())
    return sorted(Path(spec["data"]["folder"]).glob("flickr30k-images/*"))


def test_the_calibration_goes_along_with_the_model_but_not_with_other_weights(
    calibrated, command, tmp_path, capsys
):
    run, model = calibrated, load_model(calibrated)
    model.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.calibration == model.calibration
    card = contrastive.model_card(again)
    assert f"Scores are calibrated on {model.calibration.fitted_on}" in card
    saved_model.write(model, tmp_path / "out", [])  # as export --to contrastive
    assert load_model(tmp_path / "out").calibration == model.calibration
    done = command("calibrate", "-m", run, "-o", tmp_path / "other")
    assert done.code == 0, done.err
    assert load_model(tmp_path / "other").calibration.pairs == model.calibration.pairs

    with torch.no_grad():
        next(again.tower("text").head.parameters()).mul_(2)
    capsys.readouterr()
    assert calibration_of(again) is None
    assert (
        "is of other weights than the model has now, so scores have no" in capsys.readouterr().err
    )
    with pytest.raises(SpecError, match=r"the calibration is of other weights .* contrastive cal"):
        contrastive.search(again, "a red circle", texts=["red"], find="text", min_precision=0.5)
    again.save(tmp_path / "saved")
    assert "is of other weights than the model has now, and is not saved" in capsys.readouterr().err
    assert load_model(tmp_path / "saved").calibration is None
    assert "is not calibrated" in contrastive.model_card(again)


def test_data_that_were_seen_are_refused(run, command):
    for options, said in (
        (("--fit-split", "train"), "with the training split"),
        (("--split", "val"), "with the split val, which the calibration is fitted on"),
        (("--split", "train"), "with the training split"),
        (("--fit-split", "nowhere"), "choose one by --fit-split"),
    ):
        done = command("calibrate", "-m", run, *options)
        assert done.code == 2
        assert said in done.err
    assert not (run / "model" / CALIBRATION).exists()
    place = command("calibrate", "-m", "hf:nobody/nothing")
    assert place.code == 2
    assert "is no folder of this machine; save the calibrated model in one: -o FOLDER" in place.err


def rewritten(run, content) -> None:
    """Put another calibration into a saved model, as if it had been written so."""
    saved = open_folder(run / "model")
    write_folder(saved.path, {CALIBRATION: content}, keep=saved.files - {CALIBRATION})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": {"image_text": {"slope": -1.0}}}, "slope"),
        ({"weights": "no hash"}, "weights"),
        ({"searches": []}, "searches"),
        ({"format": "1"}, "format"),
    ],
)
def test_a_file_that_is_no_calibration_is_one_line(change, said, calibrated, capsys):
    run = calibrated
    rewritten(run, json.loads((run / "model" / CALIBRATION).read_text()) | change)
    assert load_model(run).calibration is None
    told = capsys.readouterr().err
    assert re.fullmatch(
        rf".*{CALIBRATION}: cannot be read: .*{said}.*, so scores have no probabilities; run: "
        r"contrastive calibrate, or copy the model again\n",
        told,
    )


def test_a_damaged_calibration_is_made_anew(calibrated, command):
    rewritten(calibrated, {"format": 1})
    done = command("calibrate", "-m", calibrated)
    assert done.code == 0, done.err
    assert load_model(calibrated).calibration


def test_a_calibration_of_a_later_release_is_told_and_left(calibrated, capsys):
    run = calibrated
    rewritten(run, {"format": 3, "other": 1})
    assert load_model(run).calibration is None
    assert "was written in format 3, this version reads up to 2" in capsys.readouterr().err


def test_one_direction_that_is_not_calibrated_is_told(model):
    contrastive.calibrate(model, rows_of(0, 60))
    cosines = np.zeros((1, 3))
    assert judge_scores(model, ("sound", "sound"), cosines, items=3).probabilities_Qk is None
    with pytest.raises(
        SpecError, match="sound to sound is not calibrated, only sound to motion, m"
    ):
        judge_scores(model, ("sound", "sound"), cosines, items=3, min_precision=0.5)


def test_more_items_than_were_calibrated_among_are_told_of(model, capsys):
    contrastive.calibrate(model, rows_of(0, 60))
    for items, told in (
        (60, ""),
        (61, "min_precision: 61 motions are searched, and the model was"),
    ):
        about = {"items": items, "min_precision": 0.1}
        judge_scores(model, ("sound", "motion"), np.zeros((1, items)), **about)
        assert capsys.readouterr().err.startswith(told)
        assert told or not capsys.readouterr().err
        judge_scores(model, ("sound", "motion"), np.zeros((1, items)), items=items)
        assert capsys.readouterr().err == ""


def test_groups_are_right_together(calibrated):
    found = load_model(calibrated).calibration
    assert found.searches["image_to_text"].right_targets == 5
    assert found.searches["text_to_image"].right_targets == 1
    assert found.pairs["image_text"].right == 5 * 20
