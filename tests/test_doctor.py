"""The doctor: every planted fault is named, and nothing is said of healthy runs."""

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from contrastive import RunSpec
from contrastive.data.samples import rows_of
from contrastive.datasets import Flickr30k, datasets
from contrastive.doctor import diagnose
from contrastive.doctor.run_facts import caption_facts, shared_facts
from contrastive.doctor.run_record import floor
from contrastive.doctor.runs import examine
from contrastive.evaluation.geometry import geometry
from contrastive.features.cache import FeatureCache
from contrastive.heads import Head, heads
from contrastive.losses import Loss, losses
from contrastive.losses.functional import accuracy, infonce, similarity
from contrastive.losses.module import LossModule
from contrastive.reporting.run_log import read_log
from contrastive.training.train import train
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

IMAGES = 96  # 64 in train, 16 in val: enough to tell recall from guessing


class MultipliedLoss(LossModule):
    """InfoNCE of cosines that are multiplied by the temperature."""

    def __init__(self, config):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.told = config.told

    def forward(self, a, b, a_ids=None, b_ids=None):
        told = self.log_scale.detach() if self.told == "as it is" else -self.log_scale.detach()
        right = accuracy(similarity(a, b, log_scale=self.log_scale), a_ids, b_ids)
        loss = infonce(a, b, a_ids, b_ids, log_scale=self.log_scale)
        return loss, {"log_scale": told.clone(), "accuracy": right}


class Multiplied(Loss):
    temperature: float = 0.07
    told: str = "as it is"

    def build(self):
        return MultipliedLoss(self)


class Detached(Head):
    """Stops the gradient, as numpy or no_grad in an encoder do."""

    def build(self, in_dim, out_dim):
        class Stop(nn.Module):
            def forward(self, x):
                return x.detach()

        return nn.Sequential(Stop(), nn.Linear(in_dim, out_dim))


class Constant(Head):
    """What it adds is so large that all samples look alike."""

    def build(self, in_dim, out_dim):
        class Add(nn.Module):
            def forward(self, x):
                return x + 1000

        return nn.Sequential(nn.Linear(in_dim, out_dim), Add())


class Lagging(Head):
    """BatchNorm learns the mean of what it is given too slowly for the run."""

    def build(self, in_dim, out_dim):
        linear = nn.Linear(in_dim, out_dim)
        nn.init.constant_(linear.bias, 30)
        return nn.Sequential(linear, nn.BatchNorm1d(out_dim, momentum=0.01))


class Narrow(Head):
    """All goes through two dimensions."""

    def build(self, in_dim, out_dim):
        return nn.Sequential(nn.Linear(in_dim, 2), nn.Linear(2, out_dim, bias=False))


class TwoIds(Flickr30k):
    """The group ids are those of two classes."""

    def build(self, split, *, purpose="evaluation"):
        rows = rows_of(super().build(split, purpose=purpose))
        return [row | {"id": row["id"] % 2} for row in rows]


@pytest.fixture(autouse=True)
def _components():
    losses.register("multiplied")(Multiplied)
    heads.register("detached")(Detached)
    heads.register("constant")(Constant)
    heads.register("lagging")(Lagging)
    heads.register("narrow")(Narrow)
    datasets.register("two-ids")(TwoIds)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return FeatureCache(tmp_path_factory.mktemp("features"))


@pytest.fixture
def toy(tmp_path, cache, capsys):
    """Train a toy and look at it: ``toy(change, lr=...)``; ``change`` edits the spec's parts."""

    def run(change=None, **training):
        data = tmp_path / "data"
        settings = {"epochs": 10, "batch_size": 16} | training
        parts = toy_dict(data, images=IMAGES, **settings)
        if change:
            change(parts, data)
        spec = RunSpec.model_validate(parts)
        train(spec, tmp_path / "run", cache=cache)
        found, unseen = examine(tmp_path / "run", spec)
        assert not unseen
        lines = read_log(tmp_path / "run" / "log.jsonl")
        told = capsys.readouterr().err.splitlines()
        return SimpleNamespace(
            folder=tmp_path / "run",
            spec=spec,
            found=found,
            codes=[finding.code for finding in found],
            lines=lines,
            noted=[line["finding"]["code"] for line in lines if "finding" in line],
            said=[line for line in told if line.startswith("doctor: ")],
        )

    return run


def loss(**fields):
    """Change the loss."""
    return lambda parts, _: parts["model"]["loss"].update(fields)


def head(modality, name):
    """Change a head."""
    return lambda parts, _: parts["model"]["towers"][modality].update(head={"type": name})


def documents(change):
    """Change the entries of the annotations, which are in the order of the images."""

    def edit(_, data):
        path = data / "dataset_flickr30k.json"
        document = json.loads(path.read_text())
        change(document["images"], data)
        path.write_text(json.dumps(document))

    return edit


def in_split(entries, split):
    return [entry for entry in entries if entry["split"] == split]


def shuffle_captions(entries, _):
    entries = in_split(entries, "train")
    captions = [entry["sentences"] for entry in entries]
    random.Random(0).shuffle(captions)
    for entry, others in zip(entries, captions, strict=True):
        entry["sentences"] = others


def shuffle_and_number_captions(entries, data):
    """Captions of other images, each with a word of its own, by which it can be learned."""
    shuffle_captions(entries, data)
    for number, entry in enumerate(in_split(entries, "train")):
        for sentence in entry["sentences"]:
            sentence["raw"] = f"{number}{number} {number}{number} {sentence['raw']}"


def repeat_captions(entries, _):
    for entry in in_split(entries, "train"):
        entry["sentences"][1]["raw"] = "A picture ."


def save_anew(split):
    """Put photographs of train into another split: other bytes, the same captions."""

    def change(entries, data):
        pairs = zip(in_split(entries, split), in_split(entries, "train"), strict=False)
        for entry, twin in list(pairs)[:5]:
            pictures = data / "flickr30k-images"
            with Image.open(pictures / twin["filename"]) as picture:
                picture.save(pictures / entry["filename"], quality=70)
            entry["sentences"] = twin["sentences"]

    return documents(change)


def copy_to_test(entries, data):
    pictures = data / "flickr30k-images"
    for entry, twin in zip(in_split(entries, "test")[:3], in_split(entries, "train"), strict=False):
        (pictures / entry["filename"]).write_bytes((pictures / twin["filename"]).read_bytes())


def bounded(parts, _):
    parts["model"]["loss"] |= {"temperature": 0.1, "max_scale": 10.5}
    parts["evaluation"] = {"split": None}


FAULTS = {
    "a learning rate that moves nothing": ("lr-too-low", None, {"lr": 1e-9}),
    "pairs that do not match, not yet learned by heart": (
        "no-learning",
        documents(shuffle_captions),
        {"lr": 1e-3},
    ),
    "pairs that do not match, learned by heart": (
        "memorised",
        documents(shuffle_and_number_captions),
        {"epochs": 25, "weight_decay": 0},
    ),
    "a scale at its bound": ("scale-at-bound", bounded, {"epochs": 15}),
    "a temperature of 1": ("scale-at-one", loss(temperature=1.0), {}),
    "a temperature that multiplies": ("multiplied-temperature", loss(type="multiplied"), {}),
    "a temperature that multiplies, told as if it divided": (
        "multiplied-temperature",
        loss(type="multiplied", told="inverse"),
        {},
    ),
    "a tower whose embeddings are all alike": ("collapsed", head("image", "constant"), {}),
    "statistics of BatchNorm that lag": ("collapsed", head("image", "lagging"), {}),
    "a bottleneck": ("low-rank", head("text", "narrow"), {}),
    "a photograph of train saved anew in val": ("leak", save_anew("val"), {}),
    "a file of train in test": ("leak", documents(copy_to_test), {}),
    "one caption for many": ("duplicate-captions", documents(repeat_captions), {}),
    "groups that are ignored": ("ignored-groups", loss(positives="ignore"), {}),
    "classes as group ids": ("few-groups", lambda p, _: p["data"].update(type="two-ids"), {}),
    "an encoder behind a detach": ("no-gradient", head("text", "detached"), {}),
}


NIGHTLY = {"pairs that do not match, learned by heart", "a temperature that multiplies"}
NIGHTLY |= {"statistics of BatchNorm that lag", "a file of train in test", "a bottleneck"}
NIGHTLY |= {"classes as group ids", "a temperature of 1"}  # by day, others of their code or kind
LIKE_INFONCE = [
    pytest.param({name: x}, marks=pytest.mark.nightly)
    for name, x in {"type": "dcl", "label_smoothing": 0.1}.items()
]


@pytest.mark.parametrize(
    ("code", "change", "training"),
    [
        pytest.param(*fault, id=name, marks=[pytest.mark.nightly] if name in NIGHTLY else [])
        for name, fault in FAULTS.items()
    ],
)
def test_a_planted_fault_is_named_and_nothing_else(toy, code, change, training):
    run = toy(change, **training)
    assert run.codes == [code]
    (finding,) = run.found
    assert finding.sentence == f"{finding.what}; {finding.remedy}"
    assert "\n" not in finding.sentence
    json.dumps(finding.as_dict())


@pytest.mark.parametrize("fields", [{}, {"type": "sigmoid"}, {"type": "supcon"}, *LIKE_INFONCE])
def test_nothing_is_said_of_a_healthy_run(toy, fields):
    run = toy(loss(**fields))
    assert (run.codes, run.noted, run.said) == ([], [], [])


def test_nothing_is_said_before_there_are_enough_steps(toy):
    run = toy(lr=1e-9, epochs=2)
    assert run.codes == []


def test_a_finding_is_said_and_noted_once(toy):
    run = toy(lr=1e-9)
    assert run.noted == ["lr-too-low"]
    (line,) = run.said
    assert line.startswith("doctor: lr-too-low: the loss is ")
    assert line.endswith("; raise training.lr")


def test_a_resumed_run_does_not_repeat_itself(toy, cache, capsys):
    run = toy(lr=1e-9)
    train(run.spec, run.folder, resume=True, cache=cache)
    assert "doctor:" not in capsys.readouterr().err
    assert sum("run" in line for line in read_log(run.folder / "log.jsonl")) == 1


def test_a_loss_that_rises_again_is_named(toy, monkeypatch):
    monkeypatch.setattr(
        "contrastive.training.train._schedule", lambda step, *_: 1 if step < 80 else 300
    )
    run = toy(epochs=16)
    assert run.codes == ["diverged"]


def test_recall_that_has_fallen_is_named(toy):
    """A real run, with the recall of its first epoch after its last."""
    run = toy(epochs=20)
    evaluations = [line["evaluation"] for line in run.lines if "evaluation" in line]
    assert diagnose(run.lines) == []
    fallen = evaluations[-1] | {"retrieval": evaluations[0]["retrieval"]}
    (finding,) = diagnose([*run.lines, {"step": 161, "evaluation": fallen}])
    assert finding.code == "overfitting"
    assert finding.evidence["epoch"] > 3


def test_the_command_says_each_finding_on_a_line_and_ends_with_1(toy, command):
    run = toy(lr=1e-9)
    ended = command("doctor", run.folder)
    assert ended.code == 1
    (line,) = ended.out.splitlines()
    assert line.startswith(f"{run.folder}: lr-too-low: the loss is ")
    ended = command("doctor", run.folder, "--json")
    assert ended.code == 1
    told = json.loads(ended.out)
    assert (told["run"], told["steps"], told["evaluations"]) == (str(run.folder), 80, 10)
    (finding,) = told["findings"]
    assert finding.keys() == {"code", "what", "remedy", "evidence"}
    assert finding["evidence"]["lr"] == pytest.approx(1e-9)


def test_the_command_of_a_healthy_run_ends_with_0(toy, command):
    run = toy()
    ended = command("doctor", run.folder)
    assert (ended.code, ended.out) == (0, f"{run.folder}: nothing found in 80 steps\n")
    assert json.loads(command("doctor", run.folder, "--json").out)["findings"] == []


def test_the_command_goes_without_data_and_without_checkpoints(toy, command, tmp_path):
    run = toy(lr=1e-9)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    ended = command("doctor", run.folder)
    assert ended.code == 1
    assert "split 'test' is not looked at: " in ended.err
    (tmp_path / "other").mkdir()
    (run.folder / "log.jsonl").rename(tmp_path / "other" / "log.jsonl")
    ended = command("doctor", tmp_path / "other")
    assert ended.code == 1
    assert "its data are not checked: " in ended.err
    ended = command("doctor", tmp_path / "elsewhere")  # a folder, but of no run
    assert ended.code == 2
    assert "no steps here to judge; give the folder of a run" in ended.err
    ended = command("doctor", tmp_path / "nowhere")
    assert ended.code == 2
    assert ended.err.endswith("nowhere: no such folder; give the folder of a run\n")


def test_figures_of_a_loop_of_ones_own_are_enough():
    stuck = [{"step": i, "loss": math.log(128) + 0.001} for i in range(1, 101)]
    assert [finding.code for finding in diagnose(stuck, batch=128)] == ["no-learning"]
    assert diagnose(stuck) == []
    assert diagnose(stuck, batch=128, loss="sigmoid") == []
    multiplied = [line | {"log_scale": math.log(0.07)} for line in stuck]
    assert [f.code for f in diagnose(multiplied, batch=128)] == ["multiplied-temperature"]


def judged(start, last, *, loss=5.5, batch=256, about=(), **geometry):
    """Diagnose a run of 200 steps whose image embeddings had these mean cosines."""
    geometry = {"uniformity": 0.0, "effective_rank": 50.0, "samples": 256} | geometry
    ranks = {"mean_cosine": last} | geometry | {"effective_rank": geometry.pop("ends", 50.0)}
    chance = {"value": 0.01, "low": 0.0, "high": 0.02, "chance": 0.01}
    recall = {"recall": {"1": chance}, "queries": 256, "targets": 256}
    lines = [
        {"step": 0, "run": {"batch": batch, "loss": {"type": "infonce"}, **dict(about)}},
        *({"step": i, "loss": loss, "lr": 1e-3, "log_scale": 2.66} for i in range(1, 201)),
        {
            "step": 200,
            "evaluation": {"retrieval": {"image_to_text": recall}, "geometry": {"image": ranks}},
        },
    ]
    if start is not None:
        lines.insert(
            0, {"step": 0, "start": {"geometry": {"image": geometry | {"mean_cosine": start}}}}
        )
    return diagnose(lines)


@pytest.mark.parametrize(
    ("start", "last", "loss", "about", "remedy"),
    [
        (0.987, 0.988, 5.5, {}, "train for more epochs or raise training.lr"),
        (0.3, 0.99, 5.5, {}, "lower training.lr"),
        (0.987, 0.999, 5.5, {}, "lower training.lr"),
        (1.0, 1.0, 5.5, {}, "see that image samples differ when they reach the model"),
        (None, 0.99, 5.5, {}, "see that image samples differ when they reach the model"),
        (1.0, 1.0, 3.0, {"batch_norm": {"image": 0.01}}, "train for 500 steps or more, or give"),
        (1.0, 1.0, 3.0, {}, "see that held-out image samples differ; if they do, look for what"),
    ],
)
def test_a_collapse_is_judged_by_its_start_and_by_the_loss(start, last, loss, about, remedy):
    (finding,) = judged(start, last, loss=loss, about=about)
    assert finding.code == "collapsed"
    assert finding.remedy.startswith(remedy)
    assert ("before the first step" in finding.what) == (start is not None)


@pytest.mark.parametrize(
    ("start", "remedy"),
    [(1.5, "train for more epochs or raise training.lr"), (60, "lower training.lr or use larger")],
)
def test_a_low_rank_is_judged_by_its_start(start, remedy):
    (finding,) = judged(0.1, 0.1, loss=4.0, effective_rank=start, ends=2.0)
    assert finding.code == "low-rank"
    assert remedy in finding.remedy


@given(
    st.lists(
        st.fixed_dictionaries(
            {"step": st.integers(1, 10**6), "loss": st.floats(-5, 20)},
            optional={
                "lr": st.floats(0, 1),
                "log_scale": st.floats(-5, 5),
                "accuracy": st.floats(0, 1),
                "collisions": st.integers(0, 16),
            },
        ),
        max_size=120,
    ),
    st.sampled_from([None, 1, 2, 16]),
)
def test_whatever_figures_lack_it_is_no_error(lines, batch):
    diagnose(lines, batch=batch)


@pytest.mark.parametrize(("scale", "batch"), [(0.1, 16), (1.0, 16), (14.3, 16), (1.0, 256)])
def test_the_floor_is_the_loss_of_a_simplex(scale, batch):
    simplex = normalize(torch.eye(batch) - 1 / batch, dim=-1)
    least = infonce(simplex, simplex, log_scale=torch.tensor(math.log(scale)))
    assert floor(scale, batch) == pytest.approx(least.item(), rel=1e-4)


def test_geometry_knows_a_point_a_plane_and_a_sphere():
    random_ND = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
    sphere = geometry(normalize(random_ND, dim=-1))
    assert sphere.mean_cosine == pytest.approx(0, abs=0.01)
    assert sphere.uniformity == pytest.approx(-4 + 8 / 32, abs=0.1)  # E exp(4c), c ~ N(0, 1/D)
    assert sphere.effective_rank > 30
    point = geometry(normalize(random_ND * 1e-3 + 1, dim=-1))
    assert point.mean_cosine > 0.999
    assert point.uniformity == pytest.approx(0, abs=1e-3)
    plane = geometry(normalize(random_ND[:, :2] @ torch.randn(2, 32), dim=-1))
    assert plane.effective_rank == pytest.approx(2, abs=0.05)
    assert geometry(random_ND[:1]) is None


def test_geometry_takes_one_sample_of_each_group():
    images = normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    captions = images.repeat_interleave(5, 0)
    ids = torch.arange(30).repeat_interleave(5)
    order = torch.randperm(150)
    assert geometry(captions[order], ids[order]) == geometry(images)


def test_what_a_batch_meets_is_what_drawn_batches_meet():
    """``met`` and ``floor`` are expected values; here they are drawn."""
    texts = ["a"] * 6 + ["b"] * 3 + [f"c{i}" for i in range(31)]
    rows = [{"id": i // 2, "text": text} for i, text in enumerate(texts)]
    facts = caption_facts(rows, batch=8)
    draw, met, logs = random.Random(0), [], []
    for _ in range(4000):
        batch = draw.sample(rows, 8)
        for row in batch:
            same = [other for other in batch if other["text"] == row["text"]]
            met.append(any(other["id"] != row["id"] for other in same))
            logs.append(math.log(sum(other["id"] == row["id"] for other in batch)))
    assert facts["met"] == pytest.approx(sum(met) / len(met), abs=0.02)
    assert facts["floor"] == pytest.approx(sum(logs) / len(logs), abs=0.05)
    assert (facts["rows"], facts["groups"], facts["duplicated"]) == (40, 20, 9)


def test_captions_that_stand_at_many_ids_are_no_leak():
    training = [{"id": i, "text": f"a {'dog' if i % 2 else 'cat'}"} for i in range(40)]
    held_out = [{"id": 100 + i, "text": "A  dog"} for i in range(10)]
    assert shared_facts(training, held_out, {})["known"] == 0
    rome = [{"id": 77, "text": f"a dog in Rome, {when}"} for when in ("today", "at noon")]
    anew = [{"id": 100, "text": row["text"].upper(), "source": "x:3"} for row in rome]
    known = shared_facts([*training, *rome], anew, {})
    assert known == {"groups": 1, "known": 1, "by_sample": 0, "first": "x:3"}
    assert shared_facts([*training, *rome], anew[:1], {})["known"] == 0  # one may be a template's
    elsewhere = [*training, rome[0], rome[1] | {"id": 78}]  # two images with a caption of it each
    assert shared_facts(elsewhere, anew, {})["known"] == 0
