"""Pictures and captions choose each other: published layouts, slow references, named mistakes."""

from __future__ import annotations

import csv
import json
import math
import os
import sys

import pytest
import torch

from contrastive import FeatureCache, build_model
from contrastive.data.bad_rows import BadRows
from contrastive.datasets.compositional import PairTest, PairTests, read_pair_tests
from contrastive.errors import DataError, MissingExtra
from contrastive.evaluation.caption_choice import pair_accuracy
from contrastive.evaluation.evaluate import evaluate
from contrastive.evaluation.leakage import content_keys, seen_samples
from contrastive.reporting.clip_benchmark import (
    Subject,
    evaluation_results,
    pair_results,
    write_results,
)
from tests.miniature import COLOURS, SHAPES, Picture
from tests.toys import toy_dict

MAX_IMAGES = [Picture(i) for i in range(24)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    return build_model(toy_dict(tmp_path_factory.mktemp("data") / "flickr30k", images=4)).eval()


@pytest.fixture
def folder(tmp_path):
    """Return a folder of images as Winoground has them, beside whatever file is written."""
    (tmp_path / "images").mkdir()
    for picture in MAX_IMAGES:
        picture.draw().save(tmp_path / "images" / f"ex_{picture.index}.png")
    return tmp_path


def swapped(picture):
    """Return the right caption, and the same words of another shape."""
    other = SHAPES[(SHAPES.index(picture.shape) + 1) % 4]
    return f"a {picture.colour} {picture.shape}", f"a {picture.colour} {other}"


def sugarcrepe(folder, entries=None):
    """Write SugarCrepe's layout: an object of entries, whose numbers may have gaps."""
    written = {}
    for picture in MAX_IMAGES:
        right, wrong = swapped(picture)
        name = f"ex_{picture.index}.png"
        entry = {"filename": name, "caption": right, "negative_caption": wrong}
        written[str(3 * picture.index)] = entry
    path = folder / "replace_obj.json"
    path.write_text(json.dumps(written | (entries or {})))
    return path


def winoground(folder, **changes):
    """Write Winoground's layout: rows of two images, without suffix, and two captions."""
    rows = []
    for a, b in zip(MAX_IMAGES[::2], MAX_IMAGES[1::2], strict=True):
        rows.append(
            {
                "id": a.index,
                "image_0": f"ex_{a.index}",
                "image_1": f"ex_{b.index}",
                "caption_0": swapped(a)[0],
                "caption_1": swapped(b)[0],
                "collapsed_tag": "Object",
            }
        )
    for place, change in changes.items():
        rows[int(place[1:])].update(change)
    path = folder / "examples.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def cosine(model, image, caption):
    a = model.embed("image", [image])[0].double().tolist()
    b = model.embed("text", [caption])[0].double().tolist()
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.slow
def test_sugarcrepe_is_the_share_of_pictures_that_choose_their_caption(model, folder):
    (tests,) = read_pair_tests(sugarcrepe(folder))
    found = pair_accuracy(model, tests)
    hits = []
    for picture in MAX_IMAGES:
        image = folder / "images" / f"ex_{picture.index}.png"
        right, wrong = swapped(picture)
        hits.append(cosine(model, image, right) > cosine(model, image, wrong))
    assert found.text.value == pytest.approx(sum(hits) / 24)
    assert 0 < sum(hits) < 24
    assert (found.tests, found.text.chance, found.image, found.group) == (24, 0.5, None, None)
    assert found.name == "replace_obj"
    assert 0 <= found.text.low <= found.text.value <= found.text.high <= 1


@pytest.mark.slow
def test_winoground_has_a_text_an_image_and_a_group_score(model, folder):
    (tests,) = read_pair_tests(winoground(folder))
    found = pair_accuracy(model, tests)
    text, image, group = [], [], []
    for a, b in zip(MAX_IMAGES[::2], MAX_IMAGES[1::2], strict=True):
        paths = [folder / "images" / f"ex_{p.index}.png" for p in (a, b)]
        captions = [swapped(p)[0] for p in (a, b)]
        c0_i0, c1_i1 = cosine(model, paths[0], captions[0]), cosine(model, paths[1], captions[1])
        c1_i0, c0_i1 = cosine(model, paths[0], captions[1]), cosine(model, paths[1], captions[0])
        text.append(c0_i0 > c1_i0 and c1_i1 > c0_i1)
        image.append(c0_i0 > c0_i1 and c1_i1 > c1_i0)
        group.append(text[-1] and image[-1])
    for figure, hits in ((found.text, text), (found.image, image), (found.group, group)):
        assert figure.value == pytest.approx(sum(hits) / 12)
    assert found.group.value <= min(found.text.value, found.image.value)


class Table:
    """A model whose cosines are given: image i and caption c are directions in a plane or more."""

    def __init__(self, embeddings):
        self.embeddings = embeddings
        self.seen = {}

    def embed(self, modality, samples, **_):
        return torch.stack([self.embeddings[modality, sample] for sample in samples])


@pytest.mark.slow
def test_random_scores_pass_as_often_as_chance_says():
    torch.manual_seed(0)
    tests, embeddings = [], {}
    for t in range(4000):
        images, captions = (f"{t}/0", f"{t}/1"), (f"a {t}", f"b {t}")
        embeddings |= {("image", i): torch.eye(2)[k] for k, i in enumerate(images)}
        embeddings |= {("text", c): torch.rand(2) for c in captions}
        tests.append(PairTest(images, captions, str(t)))
    found = pair_accuracy(Table(embeddings), PairTests("random", tests, BadRows()))
    assert (found.text.chance, found.image.chance, found.group.chance) == (1 / 4, 1 / 4, 1 / 6)
    for figure in (found.text, found.image, found.group):
        assert figure.value == pytest.approx(figure.chance, abs=0.025)


def test_ties_count_against_the_model():
    same = torch.ones(3) / math.sqrt(3)
    one = PairTests("one", [PairTest(("i",), ("a", "b"), "")], BadRows())
    two = PairTests("two", [PairTest(("i", "j"), ("a", "b"), "")], BadRows())
    collapsed = Table(
        dict.fromkeys((("image", "i"), ("image", "j"), ("text", "a"), ("text", "b")), same)
    )
    assert pair_accuracy(collapsed, one).text.value == 0
    found = pair_accuracy(collapsed, two)
    assert (found.text.value, found.image.value, found.group.value) == (0, 0, 0)


def test_several_wrong_captions_all_have_to_lose(folder):
    path = folder / "tests.jsonl"
    row = {"image": "ex_0", "caption": "a", "negative_caption": ["b", "c"]}
    path.write_text(json.dumps(row))
    (tests,) = read_pair_tests(path)
    image = folder / "images" / "ex_0.png"
    e = torch.eye(3)
    scores = {("image", image): e[0], ("text", "a"): 0.5 * e[0], ("text", "b"): 0.4 * e[0]}
    assert pair_accuracy(Table(scores | {("text", "c"): 0.6 * e[0]}), tests).text.value == 0
    found = pair_accuracy(Table(scores | {("text", "c"): 0.3 * e[0]}), tests)
    assert found.text.value == 1
    assert found.text.chance == pytest.approx(1 / 3)


@pytest.mark.slow
def test_simple_tables_are_read_as_jsonl_and_csv(model, folder):
    rows = [(f"ex_{p.index}.png", *swapped(p)) for p in MAX_IMAGES]
    with (folder / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "negative_caption"), *rows])
    lines = [json.dumps({"file_name": i, "text": c, "negative": n}) for i, c, n in rows]
    (folder / "mine.jsonl").write_text("\n".join(lines))
    expected = pair_accuracy(model, read_pair_tests(sugarcrepe(folder))[0])
    for name in ("mine.csv", "mine.jsonl"):
        assert pair_accuracy(model, read_pair_tests(folder / name)[0]).text == expected.text


def test_a_folder_is_every_file_in_it_and_pictures_may_lie_elsewhere(folder, tmp_path_factory):
    path = sugarcrepe(folder)
    elsewhere = tmp_path_factory.mktemp("labels")
    for name in ("add_obj", "swap_att"):
        (elsewhere / f"{name}.json").write_bytes(path.read_bytes())
    found = read_pair_tests(elsewhere, images=folder / "images")
    assert [tests.name for tests in found] == ["add_obj", "swap_att"]
    (folder / "images").rename(folder / "val2017")
    assert read_pair_tests(path)[0].tests[0].images[0].parent == folder / "val2017"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("text", "replace_obj.json: entry '99': not a JSON object"),
        ({"caption": "a", "negative_caption": "b"}, "has no image or filename or file_name"),
        ({"filename": "ex_0", "caption": "a"}, "has no negative_caption or negative"),
        (
            {"filename": "ex_0", "caption": 7, "negative_caption": "b"},
            "a caption or a negative one is missing or not",
        ),
        ({"filename": "ex_0", "caption": "a", "negative_caption": []}, "is missing or not a text"),
        (
            {"filename": "ex_0", "caption": "a", "negative_caption": ["b", 1]},
            "is missing or not a text",
        ),
        ({"filename": 7, "caption": "a", "negative_caption": "b"}, "neither a name nor an image"),
        ({"filename": "ex_0", "caption": " ", "negative_caption": "b"}, "a caption is empty"),
        ({"filename": "ex_0", "caption": "a", "negative_caption": "a"}, "captions are the same"),
        ({"filename": "no", "caption": "a", "negative_caption": "b"}, "image 'no' is not in"),
        ({"filename": "../a", "caption": "a", "negative_caption": "b"}, "is outside the folder"),
        ({"filename": "", "caption": "a", "negative_caption": "b"}, "the image name is empty"),
    ],
)
def test_a_malformed_entry_is_named_and_left_out(folder, entry, said):
    (tests,) = read_pair_tests(sugarcrepe(folder, {"99": entry}))
    assert len(tests.tests) == 24
    (line,) = tests.bad_rows.lines
    assert said in line
    assert line.startswith("replace_obj.json: entry '99': ")
    with pytest.raises(DataError, match="1 of 25 samples are bad, 0 may be"):
        read_pair_tests(sugarcrepe(folder, {"99": entry}), max_bad=0)


def test_a_malformed_row_is_named_by_its_line(folder, model):
    path = winoground(folder, r2={"caption_1": 7})
    (tests,) = read_pair_tests(path, max_bad=0.2)
    assert tests.bad_rows.lines == [
        "examples.jsonl:3: a caption or a negative one is missing or not a text"
    ]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "{", *lines[4:]]))
    (tests,) = read_pair_tests(path, max_bad=0.2)
    assert tests.bad_rows.lines[1].startswith("examples.jsonl:5: not valid JSON")
    assert len(tests.tests) == 11
    assert len(pair_accuracy(model, tests).faults) == 2


@pytest.mark.slow
def test_a_broken_picture_fails_its_tests_out_of_the_count(folder, model):
    (folder / "images" / "ex_5.png").write_bytes(b"\x89PNG nothing")
    (tests,) = read_pair_tests(winoground(folder), max_bad=0.1)
    found = pair_accuracy(model, tests)
    assert found.tests == 11
    assert found.faults[0].startswith("examples.jsonl:3: ")
    assert "ex_5.png" in found.faults[0]
    with pytest.raises(DataError, match="1 of 12 samples are bad, 0 may be"):
        pair_accuracy(model, read_pair_tests(winoground(folder), max_bad=0)[0])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "[]", "a.json:1: not a JSON object of tests"),
        ("a.json", "{", "a.json:1: not valid JSON"),
        ("a.json", "{}", "a.json: no tests"),
        ("a.jsonl", '{"image": "ex_0", "caption": "a"}', "a.jsonl:1: no column negative_caption"),
        ("a.csv", "caption,negative_caption\na,b\n", "a.csv:1: no column image or filename"),
        (
            "a.text",
            "a",
            "a table is a .csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet, ",
        ),
    ],
)
def test_a_file_that_is_no_file_of_tests_is_refused(folder, name, text, said):
    (folder / name).write_text(text)
    with pytest.raises(DataError) as error:
        read_pair_tests(folder / name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_parquet_with_the_pictures_in_it_is_read_as_jsonl_is(model, folder):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = winoground(folder)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for name in ("image_0", "image_1"):
            content = (folder / "images" / f"{row[name]}.png").read_bytes()
            row[name] = {"bytes": content, "path": f"{row[name]}.png"}
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "examples.parquet")
    (tests,) = read_pair_tests(folder / "examples.parquet")
    assert isinstance(tests.tests[0].images[0], bytes)
    assert tests.tests[11].source == "examples.parquet: row 12"
    assert pair_accuracy(model, tests) == pair_accuracy(model, read_pair_tests(path)[0])
    rows[2] |= {"image_1": {"bytes": None, "path": None}}
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "examples.parquet")
    (tests,) = read_pair_tests(folder / "examples.parquet", max_bad=0.1)
    assert tests.bad_rows.lines == [
        "examples.parquet: row 3: its image is neither a name nor an image"
    ]
    names = {"image": "a", "caption": "b", "negative_caption": "c"}
    many = {name: arrow.repeat(arrow.scalar(text), 1_000_001) for name, text in names.items()}
    parquet.write_table(arrow.table(many), folder / "many.parquet")  # a few kilobytes
    with pytest.raises(DataError, match=r"1,000,001 tests are too many \(limit 1,000,000\)"):
        read_pair_tests(folder / "many.parquet")
    (folder / "cut.parquet").write_bytes((folder / "examples.parquet").read_bytes()[:-9])
    (folder / "zero.parquet").symlink_to(os.devnull)
    with pytest.raises(DataError, match=r"not readable Parquet: .*is no regular file"):
        read_pair_tests(folder / "zero.parquet")
    with pytest.raises(DataError, match=r"cut\.parquet: not readable Parquet: "):
        read_pair_tests(folder / "cut.parquet")
    with pytest.raises(DataError, match=r"none\.parquet: no such file"):
        read_pair_tests(folder / "none.parquet")


def test_without_pyarrow_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r'pip install "contrastive-kit\[parquet\]"'):
        read_pair_tests(folder / "examples.parquet")


def test_what_is_not_there_is_named(folder):
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        read_pair_tests(folder / "none.json")
    with pytest.raises(DataError, match="images: no tests here"):
        read_pair_tests(folder / "images")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        read_pair_tests(sugarcrepe(folder), images=folder / "nowhere")


def test_pictures_of_the_training_split_are_refused(folder, model, monkeypatch):
    (tests,) = read_pair_tests(sugarcrepe(folder))
    row = {"image": tests.tests[4].images[0]}
    monkeypatch.setattr(model, "seen", seen_samples(content_keys([row], ["image"])))
    with pytest.raises(DataError, match=r"shares 1 of 24 image rows .* entry '12'"):
        pair_accuracy(model, tests)


def test_tests_of_one_and_of_two_pictures_are_not_mixed(model):
    tests = [PairTest(("i",), ("a", "b"), ""), PairTest(("i", "j"), ("a", "b"), "")]
    with pytest.raises(DataError, match="some tests have one image and others two"):
        pair_accuracy(Table({}), PairTests("mixed", tests, BadRows()))


@pytest.mark.slow
def test_cached_features_change_nothing(model, folder, tmp_path):
    (tests,) = read_pair_tests(winoground(folder))
    cache = FeatureCache(tmp_path / "cache")
    first = pair_accuracy(model, tests, cache=cache)
    assert pair_accuracy(model, tests, cache=cache) == first == pair_accuracy(model, tests)


@pytest.mark.slow
def test_results_have_the_names_of_clip_benchmark(model, folder, tmp_path):
    subject = Subject("winoground", "runs/a", "model", "test")
    one = pair_accuracy(model, read_pair_tests(sugarcrepe(folder))[0])
    two = pair_accuracy(model, read_pair_tests(winoground(folder))[0])
    (result,) = pair_results(two, subject)
    assert result["task"] == "image_caption_selection"
    assert result["metrics"] == {
        "text_acc": two.text.value,
        "image_acc": two.image.value,
        "acc": two.group.value,
    }
    assert pair_results(one, subject)[0]["metrics"] == {
        "text_acc": one.text.value,
        "acc": one.text.value,
    }
    assert json.loads(json.dumps(two.as_dict()))["text"]["chance"] == 0.25
    (path,) = write_results([result], tmp_path / "out")
    assert json.loads(path.read_text()) == result


class Shapes:
    """Pictures with a caption and a class each."""

    def __init__(self, classes):
        self.classes = classes

    def __len__(self):
        return len(MAX_IMAGES)

    def __getitem__(self, index):
        picture = MAX_IMAGES[index]
        label = picture.colour if self.classes is COLOURS else picture.shape
        return {
            "image": picture.draw(),
            "text": picture.captions[0],
            "id": picture.index,
            "label": label,
        }


@pytest.mark.slow
@pytest.mark.parametrize("classes", [COLOURS, SHAPES])
def test_an_evaluation_has_the_names_and_the_figures_of_clip_benchmark(model, classes):
    report = evaluate(model, Shapes(classes), split="test")
    subject = Subject("shapes", "runs/a", "model", "test")
    retrieval, classification = evaluation_results(report, subject)
    keys = {"dataset", "model", "pretrained", "task", "metrics", "language", "split"}
    assert retrieval.keys() == classification.keys() == keys
    assert retrieval["task"] == "zeroshot_retrieval"
    assert classification["task"] == "zeroshot_classification"
    images = model.embed("image", [picture.draw() for picture in MAX_IMAGES])
    texts = model.embed("text", [picture.captions[0] for picture in MAX_IMAGES])
    scores = texts @ images.T
    diagonal = torch.arange(24)
    for k in (1, 5, 10):
        by_text = (scores.topk(k).indices == diagonal[:, None]).any(1).float().mean()
        by_image = (scores.T.topk(k).indices == diagonal[:, None]).any(1).float().mean()
        metrics = retrieval["metrics"]
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(by_text.item(), abs=1e-6)
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(by_image.item(), abs=1e-6)
    metrics = classification["metrics"]
    assert metrics["acc1"] == report.classification.accuracy.value
    assert metrics["mean_per_class_recall"] == report.classification.mean_per_class
    if classes is SHAPES:
        assert metrics["acc5"] is None
    else:
        assert metrics["acc1"] <= metrics["acc5"] < 1


@pytest.mark.slow
def test_the_commands_print_and_write_what_the_functions_find(
    model, folder, monkeypatch, command, tmp_path
):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    model.save(tmp_path / "saved")
    path = winoground(folder)
    ended = command("compositional", path, "-m", "saved", "--json", "--clip-benchmark", "out")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    expected = pair_accuracy(model, read_pair_tests(path)[0])
    assert found["pairs"][0]["group"]["value"] == expected.group.value
    assert [json.loads(p.read_text()) for p in (tmp_path / "out").iterdir()] == found[
        "clip_benchmark"
    ]
    assert "examples" in command("compositional", path, "-m", "saved").out
    refused = command("compositional", tmp_path / "none.json", "-m", "saved")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.endswith("none.json: no such file\n")

    for split in ("train", "test"):
        rows = []
        for picture in MAX_IMAGES:
            if picture.split == split or (split == "test" and picture.split == "val"):
                rows.append(f"ex_{picture.index}.png,{picture.captions[0]},{picture.shape},{split}")
        lines = ["image,text,label,split", *rows] if split == "train" else rows
        with (folder / "images" / "captions.csv").open("a") as file:
            file.write("\n".join(lines) + "\n")
    spec = toy_dict(folder / "unused", images=2)
    spec["data"] = {"type": "image-folder", "folder": str(folder / "images")}
    (folder / "labelled.yaml").write_text(json.dumps(spec))
    asked = ("probe", "-m", "saved", "--data", "labelled.yaml", "-k", "5", "--shots", "1,2")
    ended = command(*asked, "--json", "--clip-benchmark", "probed")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert [point["shots"] for point in report["linear"]] == [1, 2, None]
    assert {result["dataset"] for result in report["clip_benchmark"]} == {"images"}
    assert len(list((tmp_path / "probed").iterdir())) == 3
    assert "5 neighbours" in command(*asked).out
    for wrong, said in (
        (("--shots", "1,zero"), "--shots: 'zero' is not a whole number"),
        (("--shots", "40"), "40 shots need 40"),
        (("--train-split", "test"), "shares"),
    ):
        refused = command("probe", "-m", "saved", "--data", "labelled.yaml", "-k", "5", *wrong)
        assert (refused.code, refused.out) == (2, "")
        assert said in refused.err

    ended = command("evaluate", "-m", "saved", "--data", "labelled.yaml", "--json")
    tasks = [result["task"] for result in json.loads(ended.out)["clip_benchmark"]]
    assert tasks == ["zeroshot_retrieval", "zeroshot_classification"]
