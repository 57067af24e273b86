"""Models that hear: trained on voices, measured on other voices."""

import json
import math

import pytest
import torch

from contrastive import FeatureCache, RunSpec, build_model, classify, evaluate, load_model, train

from .speech import COLOURS

pytestmark = pytest.mark.slow


def learned(figure):
    return figure.low > figure.chance


@pytest.fixture(scope="module")
def hearing(run, tmp_path_factory):
    """The folder of a model of audio and text."""
    folder = tmp_path_factory.mktemp("runs") / "hearing"
    train(RunSpec.model_validate(run("audio", "text")), folder)
    return folder


def test_words_are_found_in_voices_that_were_never_heard(hearing, run):
    trained = load_model(hearing)
    samples = RunSpec.model_validate(run("audio", "text")).data.build("test")
    report = evaluate(trained, samples)
    assert learned(report.retrieval["audio_to_text"].recall[1])
    assert learned(report.retrieval["text_to_audio"].recall[1])
    assert report.classification.modality == "audio"
    assert learned(report.classification.accuracy)
    sounds = [samples[0]["audio"], samples[1]["audio"].read_bytes()]
    found = classify(trained, sounds, [*COLOURS], templates=["{}"], modality="audio")
    assert found.shape == (2, len(COLOURS))


def test_the_commands_measure_a_model_that_hears_and_search_with_it(hearing, spoken, command):
    ended = command("evaluate", "-m", hearing, "--json")
    assert ended.code == 0, ended.err
    (report,) = [json.loads(ended.out)]
    assert set(report["retrieval"]) == {"audio_to_text", "text_to_audio"}
    ended = command("search", "purple", "-m", hearing, "-k", "3", "--json")
    assert ended.code == 0, ended.err
    first, *_ = (hit["found"] for hit in json.loads(ended.out))
    assert first.startswith(str(spoken / "test" / "purple"))
    clip = next((spoken / "test").glob("green-*.flac"))
    ended = command("search", clip, "-m", hearing, "-k", "1", "--json")
    assert [hit["found"] for hit in json.loads(ended.out)] == ["green"]
    ended = command("search", clip, "--find", "audio", "-m", hearing, "-k", "1", "--json")
    assert [hit["found"] for hit in json.loads(ended.out)] == [str(clip)]


# by day the README trains it, and tests/test_modality_pairs.py three others that find each other
@pytest.mark.nightly
def test_pictures_and_sounds_that_were_never_compared_find_each_other(run, tmp_path, command):
    """Audio and image each learned from text alone: what binds them is the shared space."""
    pairs = [["audio", "text"], ["image", "text"]]
    spec = RunSpec.model_validate(run("audio", "text", "image", pairs=pairs))
    trained = train(spec, tmp_path / "run")
    report = evaluate(trained, spec.data.build("test"))
    assert set(report.retrieval) == {
        f"{a}_to_{b}" for a in spec.model.towers for b in spec.model.towers if a != b
    }
    assert learned(report.retrieval["audio_to_image"].recall[1])
    assert learned(report.retrieval["image_to_audio"].recall[1])
    assert learned(report.retrieval["audio_to_text"].recall[1])
    clip = spec.data.build("test")[0]["audio"]
    ended = command("search", clip, "--find", "image", "-m", tmp_path / "run", "--json")
    assert ended.code == 0, ended.err
    assert all(hit["found"].endswith(".png") for hit in json.loads(ended.out))


def test_a_frozen_encoder_hears_each_clip_once(run, tmp_path):
    plain = run("audio", "text")
    plain["model"]["towers"]["audio"]["frozen"] = "encoder"
    plain["training"]["epochs"] = 2
    spec = RunSpec.model_validate(plain)
    trained = train(spec, tmp_path / "run", cache=FeatureCache(tmp_path / "cache"))
    (kept,) = (tmp_path / "cache" / "features").iterdir()
    width = spec.model.towers["audio"].encoder.width
    assert (kept / "features.bin").stat().st_size == 144 * width * 4
    clip = spec.data.build("test")[0]["audio"]
    cached = trained.embed("audio", [clip], cache=FeatureCache(tmp_path / "cache"))
    assert cached.allclose(trained.embed("audio", [clip]), atol=1e-5)


def test_two_views_of_a_clip_differ_and_a_seed_repeats_them(run):
    plain = run("audio", pairs=[["audio", "audio"]])
    plain["model"]["towers"]["audio"]["encoder"]["augment"] = "spec"
    spec = RunSpec.model_validate(plain)
    augment = build_model(spec).tower("audio").encoder.augment
    clip = spec.data.build("train", purpose="training")[0]["audio"]

    def views():
        torch.manual_seed(0)
        return [augment([clip])["mel"] for _ in range(2)]

    (first, second), again = views(), views()
    assert not torch.equal(first, second)
    assert torch.equal(torch.stack(again), torch.stack([first, second]))


# by day their views differ, and in tests/test_modality_pairs.py views train a model
@pytest.mark.nightly
def test_two_views_of_a_clip_are_told_from_those_of_others(run, tmp_path):
    plain = run("audio", pairs=[["audio", "audio"]])
    plain["model"]["towers"]["audio"]["encoder"]["augment"] = "spec"
    plain["data"]["group_column"] = "audio"  # each clip by itself: words are not told
    plain["training"] |= {"epochs": 4, "lr": 1e-3}
    train(RunSpec.model_validate(plain), tmp_path / "run")
    rows = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.75 * math.log(48)  # of guessing among a batch
