"""Scores less what a query is near to anyhow, and calibrated scores of an index."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import contrastive
from contrastive import build_index, load_model, search
from contrastive.data.samples import rows_of as rows_in
from contrastive.datasets.built_split import split_reader
from contrastive.errors import DataError
from contrastive.evaluation.logistic_fit import fit_logistic, fit_part
from contrastive.model.background import nearness
from contrastive.model.calibration_file import store_calibration
from contrastive.model.saved_files import BACKGROUND
from contrastive.model.saved_folder import open_folder, write_folder
from contrastive.model.scores import judge_scores
from tests.toys import toy_spec
from tests.vector_model import vector_model

pytestmark = pytest.mark.slow


@pytest.fixture
def model():
    return vector_model(8)


def rows_of(seed: int, count: int):
    """Return pairs that are alike; some sounds are near to all motions, some to none."""
    random = np.random.default_rng(seed)
    common, pair = np.zeros((count, 8)), random.normal(size=(count, 8))
    common[:, 0] = 1
    sounds = pair + 0.5 * random.normal(size=(count, 8)) + random.uniform(0, 6, (count, 1)) * common
    motions = pair + 3 * common
    both = zip(sounds.astype(np.float32), motions.astype(np.float32), strict=True)
    return [{"sound": a, "motion": b, "id": i} for i, (a, b) in enumerate(both)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a run, calibrated with a background set."""
    folder = tmp_path_factory.mktemp("standardized")
    torch.manual_seed(0)
    spec = toy_spec(folder / "data", images=120, epochs=3)
    contrastive.train(spec, folder / "run")
    model, samples = load_model(folder / "run"), split_reader(spec.data)
    about = {"background": samples("train"), "fit_split": "val"}
    contrastive.calibrate(model, samples("val"), samples("test"), **about)
    store_calibration(model, open_folder(folder / "run" / "model"))
    return folder / "run"


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def test_the_part_that_is_taken_is_that_of_a_regression_on_both():
    random = np.random.default_rng(0)
    other, match = random.normal(size=(2, 4000))
    yes = random.random(4000) < 1 / (1 + np.exp(-3 * match))
    part = fit_part(match + 0.7 * other, other, yes)
    assert part == pytest.approx(0.7, abs=0.05)
    better = fit_logistic(match + 0.7 * other - part * other, yes)
    assert better.slope == pytest.approx(3, rel=0.1)
    assert fit_part(match - other, other, yes) == 0, "it would be better added"
    assert fit_part(-match, other, yes) == 0, "the score itself says no"
    assert fit_part(match, 0 * other, yes) == 0


def test_nearness_is_the_mean_of_the_nearest_twentieth():
    queries, background = (torch.randn(n, 4, dtype=torch.float64) for n in (3, 60))
    cosines = np.sort(queries.numpy() @ background.numpy().T, axis=1)
    assert nearness(queries, background) == pytest.approx(cosines[:, -3:].mean(1))


def test_standardized_scores_reject_more_and_hold_what_they_say(model):
    background = rows_of(3, 300)
    plain = contrastive.calibrate(model, rows_of(0, 400), rows_of(1, 400))
    assert (plain.calibration.format, model.background) == (1, None)
    report = contrastive.calibrate(model, rows_of(0, 400), rows_of(1, 400), background=background)
    found, before = (
        each["sound_to_motion"] for each in (report.standardized_rejection, plain.rejection)
    )
    assert found.area > before.area + 0.03
    assert report.rejection == plain.rejection
    assert report.calibration.format == 2
    assert report.calibration.standardized["sound_to_motion"].weight > 0.3
    assert report.as_dict()["standardized_rejection"]["sound_to_motion"]["area"] == found.area
    rows = rows_of(2, 800)
    right = []
    for start in range(0, 800, 400):
        sounds, motions = (
            model.embed(m, [row[m] for row in rows[start : start + 400]])
            for m in ("sound", "motion")
        )
        about = {"items": 400, "queries_QD": sounds, "min_precision": 0.6}
        judged = judge_scores(model, ("sound", "motion"), (sounds @ motions.T).numpy(), **about)
        right.extend(np.eye(400, dtype=bool)[judged.is_kept_Qk].tolist())
    assert len(right) > 200
    assert abs(np.mean(right) - 0.6) < 0.1
    cosines = judge_scores(
        model, ("sound", "motion"), (sounds @ motions.T).numpy(), items=400, min_precision=0.6
    )
    assert not cosines.is_kept_Qk.any()


def test_a_background_set_is_of_other_samples_and_large_enough(model):
    rows = rows_of(0, 100)
    few = [row | {"id": 1000 + row["id"]} for row in rows_of(5, 10)]
    with pytest.raises(DataError, match="10 sound samples are too few for a background set"):
        contrastive.calibrate(model, rows, background=[*rows[:30], *few])
    with pytest.raises(DataError, match="all rows of the background set are of the data that"):
        contrastive.calibrate(model, rows, background=rows)
    assert model.calibration is None


def test_the_background_goes_along_and_is_checked(run, tmp_path, command, capsys):
    model = load_model(run)
    assert [len(model.background[name]) for name in ("image", "text")] == [80, 400]
    model.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.calibration == model.calibration
    assert all(torch.equal(each, again.background[name]) for name, each in model.background.items())

    saved = open_folder(run / "model")
    others = saved.files - {BACKGROUND}
    good = {name: each.clone() for name, each in model.background.items()}
    for other, said in (
        (None, "has no text"),
        (good["text"][:, :5], "text is no table of 32 numbers a row"),
        (good["text"] * torch.nan, "text has numbers that are not"),
    ):
        files = {} if other is None else {BACKGROUND: good | {"text": other.contiguous()}}
        write_folder(saved.path, files, keep=others)
        capsys.readouterr()
        assert load_model(run).calibration is None
        told = capsys.readouterr().err
        assert f"{BACKGROUND}: cannot be read: {said}" in told
        assert "; run: contrastive calibrate, or copy the model again" in told
    drawn = run / "drawn.png"
    done = command("calibrate", "-m", run, "--background", "train", "--plot", drawn)
    assert done.code == 0, done.err
    assert "standardized: " in done.out
    assert drawn.stat().st_size > 5000
    assert load_model(run).calibration == model.calibration
    assert command("calibrate", "-m", run).code == 0
    assert not (run / "model" / BACKGROUND).exists()


def test_an_index_is_judged_as_its_samples_are(made, tmp_path, capsys):
    model, samples = load_model(made), split_reader(toy_spec(made.parent / "data").data)
    rows = list(rows_in(samples("test")))
    index = build_index(model, samples("test"), tmp_path / "index").index
    middle = sorted(row["id"] for row in rows)[len(rows) // 2]
    some = [row for row in rows if row["id"] >= middle]
    image, text = rows[0]["image"], rows[0]["text"]
    for where, among in (((), rows), ((f"id>={middle}",), some)):
        for query, about in (
            (text, {"find": "image"}),
            (image, {"find": "text"}),
        ):
            for precision in (None, 0.1, 0.3, 1.0):
                asked = {"min_precision": precision, **about}
                found = search(model, query, index=index, where=where, **asked)
                expected = search(model, query, samples=among, **asked)
                told = [x for x in capsys.readouterr().err.splitlines() if "match" in x]
                assert told[: len(told) // 2] == told[len(told) // 2 :]
                assert [hit.source for hit in found] == [hit.source for hit in expected]
                assert [hit.probability for hit in found] == pytest.approx(
                    [hit.probability for hit in expected]
                )
