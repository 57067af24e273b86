"""Any number of modalities: chosen pairs, two views through one tower, data of one modality."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from contrastive import FeatureCache, ModelSpec, RunSpec, build_model, classify, load_model
from contrastive.data.content_hash import sample_key
from contrastive.data.samples import rows_of
from contrastive.datasets import ClassFolders, Dataset, Flickr30k, Lines, datasets
from contrastive.distributed.ranks import Ranks
from contrastive.encoders import Encoder, encoders
from contrastive.encoders.module import EncoderModule
from contrastive.errors import BadSample, DataError, SpecError, TrainingError
from contrastive.evaluation.evaluate import evaluate
from contrastive.evaluation.retrieval import recall
from contrastive.reporting.run_log import read_log
from contrastive.training.batches import TrainingBatches
from contrastive.training.step import step_loss
from contrastive.training.train import train
from tests.toys import toy_dict

KINDS = 12
LINEAR = {"type": "linear"}
CBOW = {"encoder": {"type": "cbow", "width": 32, "buckets": 512}, "head": LINEAR}


class Numbers(EncoderModule):
    """A table of numbers to features."""

    def __init__(self, spec):
        super().__init__()
        self.modality, self.out_dim = spec.modality, 16
        self.layer = torch.nn.Linear(3, 16)
        self.preprocess = AsTensor()

    def forward(self, values):
        return self.layer(values).relu()


@dataclass(frozen=True)
class AsTensor:
    def __call__(self, samples):
        if bad := [sample for sample in samples if len(sample) != 3]:
            msg = f"{bad[0]}: not three numbers"
            raise BadSample(msg)
        return {"values": torch.tensor(samples)}


class Sound(Encoder):
    """Hears three numbers."""

    modality: ClassVar[str] = "sound"

    def build(self):
        return Numbers(self)


class Smell(Sound):
    """Smells three numbers."""

    modality: ClassVar[str] = "smell"


@dataclass(frozen=True)
class Things:
    """Things of twelve kinds, each with a sound, a smell and a word."""

    places: range
    classes: tuple[str, ...] = tuple(f"kind{k}" for k in range(KINDS))

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        place = self.places[index]
        kind = place % KINDS
        angle = 2 * math.pi * kind / KINDS
        shift = 0.01 * (place // KINDS)
        return {
            "sound": [math.cos(angle), math.sin(angle), shift],
            "smell": (math.sin(angle), shift, math.cos(angle)),
            "text": f"kind{kind}",
            "id": kind,
            "label": f"kind{kind}",
            "source": f"thing {place}",
        }


class Kinds(Dataset):
    """Things, by place."""

    def build(self, split, *, purpose="evaluation"):
        places = {"train": range(96), "val": range(96, 120), "test": range(120, 144)}
        return Things(places[split])


@pytest.fixture
def three():
    """Return the spec of a run with three modalities, none of them an image."""
    encoders.register("sound")(Sound)
    encoders.register("smell")(Smell)
    datasets.register("kinds")(Kinds)
    return {
        "model": {
            "embed_dim": 16,
            "towers": {
                "sound": {"encoder": {"type": "sound"}, "head": LINEAR},
                "text": CBOW,
                "smell": {"encoder": {"type": "smell"}, "head": LINEAR},
            },
            "pairs": [["sound", "text"], ["smell", "text"]],
            "loss": {"type": "infonce"},
        },
        "data": {"type": "kinds"},
        "training": {"epochs": 30, "batch_size": 32, "lr": 2e-2, "workers": 0},
    }


def views_of(toy: dict[str, Any], **encoder: Any) -> dict[str, Any]:
    """Return a toy run in which two views of an image go through one tower."""
    image = toy["model"]["towers"]["image"]
    image["encoder"] |= encoder
    model = {"towers": {"image": image}, "pairs": [["image", "image"]]}
    return toy | {"model": toy["model"] | model}


def test_without_pairs_every_two_modalities_are_compared(three):
    spec = ModelSpec.model_validate(three["model"] | {"pairs": None})
    assert spec.modality_pairs == (("sound", "text"), ("sound", "smell"), ("text", "smell"))
    assert [spec.views(modality) for modality in spec.towers] == [1, 1, 1]
    assert spec.model_dump()["pairs"] is None


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([], "at least 1 item"),
        ([["sound"]], "Field required"),
        ([["sound", "tekst"], ["smell", "text"]], "pairs.0: no tower 'tekst'; did you mean 'text'"),
        ([["sound", "text"], ["text", "sound"]], "pairs.1: text and sound are a pair already"),
        ([["sound", "text"]], "towers.smell: is in none of the pairs; list one, or leave the"),
        (
            [["sound", "sound"], ["smell", "text"], ["smell", "smell"], ["smell", "smell"]],
            "pairs.3",
        ),
    ],
    ids=range(6),
)
def test_pairs_that_do_not_fit_the_towers_are_refused(three, pairs, says):
    with pytest.raises(SpecError, match=says):
        ModelSpec.model_validate(three["model"] | {"pairs": pairs})


def test_one_tower_is_told_how_to_be_compared_with_itself(three):
    model = three["model"] | {"towers": {"text": CBOW}, "pairs": None}
    with pytest.raises(SpecError, match=r"for two views, pairs: \[\[text, text\]\]"):
        ModelSpec.model_validate(model)


def test_a_queue_holds_one_pair_of_modalities(three):
    loss = {"type": "queue", "size": 8, "loss": {"type": "infonce"}}
    with pytest.raises(SpecError, match="queue is for one pair of modalities, and there are"):
        ModelSpec.model_validate(three["model"] | {"loss": loss})


def test_the_loss_is_the_mean_over_the_chosen_pairs(three):
    torch.manual_seed(0)
    model = build_model(three["model"])
    ids = torch.arange(8)
    views = {m: [normalize(torch.randn(8, 16), dim=-1)] for m in model.towers}
    loss, figures = model.pair_loss(views, ids)
    by_hand = {}
    for modality in ("sound", "smell"):
        logits = model.loss.log_scale.exp() * views[modality][0] @ views["text"][0].T
        by_hand[modality] = (
            -(logits.log_softmax(1).diag().mean() + logits.log_softmax(0).diag().mean()) / 2
        )
    torch.testing.assert_close(loss, (by_hand["sound"] + by_hand["smell"]) / 2)
    torch.testing.assert_close(figures["loss_sound_text"], by_hand["sound"])
    torch.testing.assert_close(figures["loss_smell_text"], by_hand["smell"])


@pytest.mark.slow
def test_modalities_that_were_never_compared_find_each_other(three, tmp_path):
    """Sound and smell each learned from text alone: what binds them is the shared space."""
    spec = RunSpec.model_validate(three)
    trained = train(spec, tmp_path / "run", cache=FeatureCache(tmp_path / "cache"))
    report = evaluate(trained, spec.data.build("test"))
    emergent = report.retrieval["sound_to_smell"].recall[1]
    assert emergent.low > emergent.chance
    assert set(report.retrieval) == {
        f"{a}_to_{b}" for a in spec.model.towers for b in spec.model.towers if a != b
    }
    assert report.classification.modality == "sound"
    assert report.classification.accuracy.low > report.classification.accuracy.chance
    sound = spec.data.build("test")[0]["sound"]
    names = Things(range(0)).classes
    probabilities = classify(trained, [sound], names, templates=["{}"], modality="sound")
    assert probabilities.shape == (1, KINDS)
    again = load_model(tmp_path / "run")
    assert torch.equal(
        again.embed("smell", [(0.0, 0.0, 1.0)]), trained.embed("smell", [(0, 0, 1.0)])
    )


def test_samples_of_any_plain_kind_have_a_key(three, tmp_path):
    assert sample_key([1.0, 2.0], "sound") == sample_key((1.0, 2.0), "sound")
    assert sample_key({"a": 1, "b": 2}, "row") == sample_key({"b": 2, "a": 1}, "row")
    assert sample_key("CCO", "molecule") != sample_key("OCC", "molecule")
    (tmp_path / "clip.wav").write_bytes(b"RIFF")
    assert sample_key(str(tmp_path / "clip.wav"), "sound") == sample_key(b"RIFF", "sound")
    with pytest.raises(BadSample, match="a sample of sound cannot be a set"):
        sample_key({1}, "sound")
    three["model"]["towers"]["sound"]["frozen"] = "encoder"
    spec = RunSpec.model_validate(three | {"training": three["training"] | {"epochs": 1}})
    train(spec, tmp_path / "run", cache=FeatureCache(tmp_path / "cache"))
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1


def test_data_without_a_towers_modality_are_refused_in_one_line(three, tmp_path):
    three["model"]["towers"]["image"] = {
        "encoder": {"type": "resnet", "width": 4, "image_size": 32},
        "head": LINEAR,
    }
    three["model"]["pairs"] = None
    with pytest.raises(DataError) as caught:
        train(RunSpec.model_validate(three), tmp_path / "run")
    assert str(caught.value) == (
        "thing 0: has no image for towers.image, it has sound, smell, text; take other data or "
        "other towers"
    )
    with pytest.raises(DataError, match="thing 120: has no image for"):
        evaluate(build_model(three), Kinds().build("test"))


@pytest.mark.slow
def test_two_views_are_two_augmentations_and_always_the_same_two(tmp_path):
    toy = views_of(toy_dict(tmp_path / "data"), augment="simclr")
    spec = RunSpec.model_validate(toy)
    model = build_model(spec)
    feeds = [
        TrainingBatches(
            spec.data.build("train", purpose="training"),
            model,
            spec.training,
            Ranks(),
            cache=None,
        )
        for _ in range(2)
    ]
    (one, *_), (again, *_) = (list(feed.iterate(0, 2)) for feed in feeds)
    first, second = one.inputs["image"]
    assert first["image"].shape == second["image"].shape
    assert not torch.equal(first["image"], second["image"])
    for view, same in zip(one.inputs["image"], again.inputs["image"], strict=True):
        assert torch.equal(view["image"], same["image"])


def test_the_loss_of_two_views_is_nt_xent(tmp_path):
    """SimCLR's loss (arXiv:2002.05709, eq. 1), by a loop over all 2N views."""
    toy = views_of(toy_dict(tmp_path / "data"))
    toy["model"]["loss"] = {"type": "supcon", "temperature": 0.5}
    model = build_model(toy["model"])
    torch.manual_seed(0)
    z = [normalize(torch.randn(6, 32, dtype=torch.float64), dim=-1) for _ in range(2)]
    loss, _ = model.pair_loss({"image": z}, torch.arange(6))
    both = torch.cat(z)
    terms = []
    for i in range(12):
        others = [torch.exp(both[i] @ both[k] / 0.5) for k in range(12) if k != i]
        terms.append(-torch.log(torch.exp(both[i] @ both[(i + 6) % 12] / 0.5) / sum(others)))
    torch.testing.assert_close(loss, sum(terms) / 12, rtol=1e-6, atol=0)


@pytest.mark.slow
def test_captions_that_no_tower_reads_are_nothing_to_the_doctor(tmp_path, capsys):
    """All images of one caption: negatives of each other in a model of texts, and only there."""

    class Alike(Flickr30k):
        """Flickr30k in which every caption is the same."""

        def build(self, split, *, purpose="evaluation"):
            rows = rows_of(super().build(split, purpose=purpose))
            return [row | {"text": "a shape"} for row in rows]

    datasets.register("alike")(Alike)
    toy = toy_dict(tmp_path / "data", epochs=1)
    toy["data"]["type"] = "alike"
    train(RunSpec.model_validate(toy), tmp_path / "both")
    assert "duplicate-captions" in capsys.readouterr().err
    toy = views_of(toy, augment="crop-flip")
    train(RunSpec.model_validate(toy), tmp_path / "image")
    assert "duplicate-captions" not in capsys.readouterr().err


@pytest.mark.slow
def test_two_views_that_are_the_same_are_refused(tmp_path):
    toy = views_of(toy_dict(tmp_path / "data"))
    toy["model"]["towers"]["image"] |= {"frozen": "encoder", "head": LINEAR}
    says = "the two views of each image are the same; give towers.image an augment or dropout"
    for mode in ("auto", "off"):
        toy["training"]["cache"] = mode
        with pytest.raises(TrainingError, match=says):
            train(RunSpec.model_validate(toy), tmp_path / mode)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [None, 5])
def test_views_meet_beside_another_pair_also_by_micro_batches(tmp_path, rows):
    """Image with text, and image with itself: SLIP's two tasks, through one image tower."""
    toy = toy_dict(tmp_path / "data", micro_batch=rows, batch_norm="eval")
    toy["model"]["towers"]["image"] |= {"frozen": "none", "head": LINEAR}
    toy["model"]["towers"]["image"]["encoder"]["augment"] = "crop-flip"
    toy["model"]["pairs"] = [["image", "text"], ["image", "image"]]
    spec = RunSpec.model_validate(toy)
    torch.manual_seed(0)
    model = build_model(spec)
    samples = spec.data.build("train", purpose="training")
    feed = TrainingBatches(samples, model, spec.training, Ranks(), cache=None)
    (batch,) = feed.iterate(0, 1)
    loss, figures = step_loss(model, batch, spec.training, dtype=None)
    loss.backward()
    whole = spec.training.model_copy(update={"micro_batch": None})
    twin = build_model(spec)
    twin.load_state_dict(model.state_dict())
    expected, _ = step_loss(twin, batch, whole, dtype=None)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(loss, (figures["loss_image_text"] + figures["loss_image_image"]) / 2)
    for (name, p), (_, q) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-4 * q.grad.norm(), name


@pytest.mark.slow
def test_dropout_alone_makes_two_views_of_a_text(tmp_path, command):
    """SimCSE (arXiv:2104.08821): paraphrases come closer, though training has seen no pair."""
    colours = ("red", "green", "blue", "black", "white", "brown", "grey", "pink")
    things = ("dog", "cat", "car", "house", "tree", "boat", "cup", "chair", "road", "lamp")
    lines = [f"the {c} {t}\ta {t} that is {c}" for c in colours for t in things]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    spec = RunSpec.model_validate(
        {
            "model": {
                "embed_dim": 32,
                "towers": {
                    "text": {
                        "encoder": {"type": "cbow", "width": 64, "buckets": 512},
                        "head": {"type": "mlp", "dropout": 0.2},
                    }
                },
                "pairs": [["text", "text"]],
                "loss": {"type": "infonce", "temperature": 0.05},
            },
            "data": {"type": "lines", "file": str(tmp_path / "lines.txt"), "holdout": 0.2},
            "training": {"epochs": 10, "batch_size": 32, "lr": 1e-2, "workers": 0},
        }
    )
    trained = train(spec, tmp_path / "run")
    report = evaluate(trained, spec.data.build("test"))
    found = report.retrieval["text_to_text"]
    assert found.targets == found.queries - 1  # no text is its own answer
    assert found.recall[1].low > found.recall[1].chance
    assert any("loss" in line for line in read_log(tmp_path / "run" / "log.jsonl"))
    ended = command("search", "a red dog", "-m", tmp_path / "run", "--split", "train", "-k", "1")
    assert ended.code == 0
    assert "red" in ended.out
    assert command("evaluate", "-m", tmp_path / "run").code == 0


def test_recall_within_a_modality_leaves_the_query_out():
    torch.manual_seed(0)
    embeddings = normalize(torch.randn(30, 8), dim=-1)
    ids = torch.randint(0, 12, (30,))
    found = recall(embeddings, embeddings, ids, ks=(1, 3))
    hits = {1: [], 3: []}
    for i in range(30):
        others = [j for j in range(30) if j != i]
        if not any(ids[j] == ids[i] for j in others):
            continue
        ranked = sorted(others, key=lambda j: -float(embeddings[i] @ embeddings[j]))
        for k, of_k in hits.items():
            of_k.append(any(ids[j] == ids[i] for j in ranked[:k]))
    for k, of_k in hits.items():
        assert found.recall[k].value == pytest.approx(sum(of_k) / len(of_k))
    assert (found.queries, found.targets) == (len(hits[1]), 29)


@pytest.fixture
def pictures(tmp_path):
    for number in range(40):
        path = tmp_path / "pictures" / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    return tmp_path / "pictures"


def test_pictures_in_class_folders_are_split_by_a_hash(pictures):
    config = ClassFolders(folder=pictures, holdout=0.25)
    splits = {name: config.build(name) for name in ("train", "val", "test")}
    rows = [row for samples in splits.values() for row in rows_of(samples)]
    assert sorted(row["id"] for row in rows) == list(range(40))
    assert splits["train"].classes == ("cats", "dogs")
    assert all(row["label"] == row["image"].parent.name for row in rows)
    assert all(row["source"].startswith(row["label"]) for row in rows)
    both = rows_of(config.build("val+test"))
    assert len(both) == len(splits["val"]) + len(splits["test"])


def test_folders_that_are_named_like_splits_are_the_splits(pictures):
    for name in ("train", "validation"):
        for kind in ("cats", "dogs"):
            (pictures / name).mkdir(exist_ok=True)
            (pictures / kind).rename(pictures / name / kind) if name == "train" else None
    (pictures / "validation" / "dogs").mkdir()
    Image.new("RGB", (4, 4)).save(pictures / "validation" / "dogs" / "new.png")
    config = ClassFolders(folder=pictures)
    assert len(config.build("train")) == 40
    assert rows_of(config.build("val"))[0]["label"] == "dogs"
    with pytest.raises(DataError, match="no split 'test'; there are: 'train', 'val'"):
        config.build("test")


def test_pictures_without_folders_have_no_classes(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    samples = ClassFolders(folder=tmp_path, holdout=0).build("train")
    assert samples.classes == ()
    assert "label" not in samples[0]


def test_data_of_one_modality_that_are_not_there_say_so(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        ClassFolders(folder=tmp_path / "nowhere").build("train")
    with pytest.raises(DataError, match=r"no images here \(.jpg"):
        ClassFolders(folder=tmp_path).build("train")
    with pytest.raises(DataError, match="no such file"):
        Lines(file=tmp_path / "nowhere.txt").build("train")
    (tmp_path / "lines.txt").write_text("one\n\ntwo\tzwei\n\0\n")
    config = Lines(file=tmp_path / "lines.txt", holdout=0, max_bad=0.5)
    assert [(row["text"], row["id"]) for row in rows_of(config.build("train"))] == [
        ("one", 1),
        ("two", 3),
        ("zwei", 3),
    ]
    with pytest.raises(DataError, match="no samples in split 'val'"):
        config.build("val")
    with pytest.raises(DataError, match="no split 'dev'; there are: 'test', 'train', 'val'"):
        config.build("dev")
    with pytest.raises(DataError, match=r"lines.txt:4: the text has a NUL"):
        config.model_copy(update={"max_bad": 0.0}).build("train")
