"""What Python functions do with arguments that do not fit: the right answer, or one line."""

from __future__ import annotations

import copy
import os
from pathlib import PurePath

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import contrastive
from contrastive import ContrastiveModel, FeatureCache, build_model
from contrastive.datasets import ImageFolder
from contrastive.errors import BadSample, ContrastiveError, DataError, SpecError
from contrastive.evaluation.comparison import compare_retrieval
from contrastive.evaluation.probe import Reader, knn, linear_probe
from contrastive.evaluation.retrieval import recall
from contrastive.losses import Queue, Sigmoid
from contrastive.losses.execution import infonce as executed
from contrastive.losses.functional import infonce, sigmoid
from tests.toys import toy_dict, write_noise

TEXTS = ["a dog", "a cat on a mat", "two birds"]
HEAD = {"type": "linear"}
TOWERS = {
    "image": {"encoder": {"type": "resnet", "width": 8, "image_size": 32}, "head": HEAD},
    "text": {"encoder": {"type": "cbow", "width": 16}, "head": HEAD},
}
SPEC = {"embed_dim": 16, "towers": TOWERS, "loss": {"type": "infonce"}}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(SPEC).eval()


@pytest.fixture(scope="module")
def diverged(model):
    """The same, with a text tower that gives NaN."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        next(broken.tower("text").head.parameters()).fill_(torch.nan)
    return broken


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def rows(photos):
    pairs = zip(photos, TEXTS, strict=True)
    return [{"image": p, "text": t, "id": i} for i, (p, t) in enumerate(pairs)]


@pytest.fixture(scope="module")
def embeddings(model, photos):
    return model.embed("image", photos), model.embed("text", TEXTS)


def refused(function, said, kind=ContrastiveError):
    with pytest.raises(kind, match=said) as error:
        function()
    assert "\n" not in str(error.value)


VERBS = {
    "answer": lambda model, photos, _: contrastive.answer(model, photos, "what is it?", TEXTS),
    "caption": lambda model, photos, _: contrastive.caption(model, photos, TEXTS),
    "classify": lambda model, photos, _: contrastive.classify(model, photos, TEXTS),
    "compare": lambda m, photos, _: contrastive.compare({"a": m, "b": m}, photos, TEXTS),
    "compare_retrieval": lambda m, _, rows: compare_retrieval({"a": m, "b": m}, rows),
    "evaluate": lambda model, _, rows: contrastive.evaluate(model, rows),
    "generate": lambda model, *_: contrastive.generate(model, "a dog", steps=1),
    "rerank": lambda model, photos, _: contrastive.rerank(model, "a dog", photos),
    "search": lambda model, photos, _: contrastive.search(model, "a dog", images=photos),
    "probe": lambda model, _, rows: contrastive.probe(model, rows, rows),
}


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "probe"])
def test_nothing_is_measured_by_embeddings_that_are_not_finite(diverged, photos, rows, verb):
    said = "its embedding is not finite"
    refused(lambda: VERBS[verb](diverged, photos, rows), said, (BadSample, DataError))


def test_given_embeddings_are_finite_or_refused(model, embeddings):
    image, text = embeddings
    for bad in (torch.nan, torch.inf, -torch.inf):
        broken = text.clone()
        broken[1, 3] = bad
        said = "1 of 3 rows are not finite, the first is row 1"
        refused(lambda: recall(image, broken), f"targets: {said}")  # noqa: B023
        refused(lambda: recall(broken.numpy(), image), f"queries: {said}")  # noqa: B023
        refused(lambda: model.similarity(image, broken), f"b: {said}")  # noqa: B023


def test_a_temperature_that_is_not_finite_ranks_nothing(model, photos):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.loss.log_scale.fill_(torch.nan)
    said = "logits: 3 of 3 rows are not finite"
    refused(lambda: contrastive.classify(broken, photos, TEXTS), said, DataError)


def test_features_of_a_probe_are_finite_or_refused(model, photos):
    class Labelled(list):
        classes = ("a", "b")

    images = [np.asarray(Image.open(path)) for path in photos[:2]]
    seen, unseen = (
        Labelled({"image": x + add, "id": i, "label": "ab"[i]} for i, x in enumerate(images))
        for add in (0, 1)
    )
    broken = copy.deepcopy(model)
    with torch.no_grad():
        next(broken.tower("image").encoder.parameters()).fill_(torch.inf)
    said = "image features: 2 of 2 rows are not finite"
    refused(lambda: Reader(broken).read(seen, unseen), said, DataError)
    found = Reader(model).read(seen, unseen)
    refused(lambda: knn(found, k=1, temperature=0), "temperature is 0; give a number above 0")
    refused(lambda: linear_probe(found, C=-1), "C is -1; give a number above 0, or None")
    refused(lambda: knn(found, k=0), "k is 0; give a whole number of at least 1")
    refused(lambda: linear_probe(found, shots="12"), "shots is '12'; give a list of whole numbers")


COUNTS = {
    "batch_size": lambda x, m, *_: m.embed("text", TEXTS, batch_size=x),
    "k": lambda x, m, photos, _: contrastive.search(m, "a dog", images=photos, k=x),
    "top": lambda x, m, photos, _: contrastive.caption(m, photos, TEXTS, top=x),
    "steps": lambda x, m, *_: contrastive.generate(m, "a dog", steps=x),
    "views": lambda x, m, *_: contrastive.generate(m, "a dog", views=x),
    "seeds": lambda x, m, *_: contrastive.probe(m, [], [], seeds=x),
    "ks": lambda x, *_: recall(np.eye(3), np.eye(3), ks=[1, x]),
}
WORKERS = [
    lambda x, m, *_: m.embed("text", TEXTS, workers=x),
    lambda x, m, _, rows: contrastive.evaluate(m, rows, workers=x),
    lambda x, m, *_: contrastive.probe(m, [], [], workers=x),
]


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "2", np.float64(1), [1]])
def test_a_count_is_a_whole_number(model, photos, rows, value):
    for name, use in COUNTS.items():
        said = f"{name} is .*; give a whole number of at least 1"
        refused(lambda: use(value, model, photos, rows), said, SpecError)  # noqa: B023
    for use in WORKERS if value != 0 else ():
        said = "workers is .*; give a whole number of at least 0"
        refused(lambda: use(value, model, photos, rows), said, SpecError)  # noqa: B023


def test_counts_of_numpy_and_more_than_there_is_are_fine(model, photos):
    hits = contrastive.search(model, "a dog", images=photos, k=np.int64(100))
    assert len(hits) == 3
    assert hits == contrastive.search(model, "a dog", images=photos)
    assert len(contrastive.caption(model, photos[0], TEXTS, top=100)[0]) == 3
    expected = model.embed("text", TEXTS)
    assert torch.allclose(model.embed("text", TEXTS, batch_size=np.int32(2)), expected)
    refused(lambda: recall(np.eye(3), np.eye(3), ks=3), "ks is 3; give a list of whole numbers")
    said = "diversity is '1'; give a number from 0"
    refused(lambda: contrastive.caption(model, photos, TEXTS, diversity="1"), said)


def test_prompts_to_rank_against_come_in_any_form(model, photos):
    expected = contrastive.rerank(model, "a dog", photos, against=["a cat", "a bird"])
    assert [x.index for x in expected] != [
        x.index for x in contrastive.rerank(model, "a dog", photos)
    ] or expected[0].probability < 1
    for against in (iter(["a cat", "a bird"]), ("a cat", "a bird"), np.array(["a cat", "a bird"])):
        assert contrastive.rerank(model, "a dog", photos, against=against) == expected
    for none in (None, (), np.array([], str), iter(())):
        assert contrastive.rerank(model, "a dog", photos, against=none)[0].probability == 1
    said = r"prompt 'a cat' is not in a list; give a list, such as \['a cat'\]"
    refused(lambda: contrastive.rerank(model, "a dog", photos, against="a cat"), said)
    said = "prompt 'a dog' is given twice"
    refused(lambda: contrastive.rerank(model, "a dog", photos, against=["a dog"]), said)
    refused(lambda: contrastive.rerank(model, None, photos), "prompt None is a NoneType")
    refused(lambda: contrastive.generate(model, None), "prompt None is a NoneType")
    refused(lambda: contrastive.answer(model, photos, 7, TEXTS), "question 7 is an int")


def test_an_iterator_of_templates_serves_every_model(model, photos):
    found = contrastive.compare(
        {"a": model, "b": model}, photos, TEXTS, templates=(t for t in ["a photo of {}"])
    )
    assert found.templates == ("a photo of {}",)
    assert torch.equal(found.probabilities["a"], found.probabilities["b"])


@pytest.fixture(scope="module")
def batch(model, photos):
    samples = {"image": photos, "text": TEXTS}
    return {m: model.tower(m).encoder.preprocess(x) for m, x in samples.items()}


def test_forward_takes_ids_in_any_form(model, batch):
    with torch.no_grad():
        expected = model(**batch, ids=torch.tensor([5, 5, 7]))["loss"]
        long = [2**70, 2**70, -(2**70)]
        for ids in (
            [5, 5, 7],
            np.array([1, 1, 2]),
            ["x", "x", "y"],
            torch.tensor([1.0, 1.0, 2.0]),
            long,
        ):
            assert torch.equal(model(**batch, ids=ids)["loss"], expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": [1, 2]}, r"ids have shape \(2,\) for 3 rows; give one for each"),
        ({"ids": 7}, "ids are an int; give one for each row"),
        ({"ids": {1, 2, 3}}, "ids are a set; give one for each row"),
        ({"ids": {1: 1, 2: 2, 3: 3}}, "ids are a dict; give one for each row"),
        ({"ids": torch.ones(3, 1, dtype=torch.long)}, r"ids have shape \(3, 1\) for 3 rows"),
        ({"ids": [1, 2, None]}, "the id of row 2 is None; ids are integers or strings"),
        ({"ids": [1, 2, 2.5]}, "the id of row 2 is 2.5; ids are integers or strings"),
        ({"text": TEXTS}, r"text takes what model.tower\('text'\).encoder.preprocess\(samples\)"),
        ({"text": "a dog"}, "two of these in a list; it was given a str"),
        ({"image": torch.zeros(3, 3, 32, 32)}, "it was given a Tensor"),
        ({"image": {"path": "a.jpg"}}, "it was given a dict"),
        ({"image": []}, "it was given 0 values in a list"),
        ({"image": None}, "it was given a NoneType"),
    ],
)
def test_forward_says_what_it_takes(model, batch, change, said):
    refused(lambda: model(**batch | change), said)


def test_rows_that_do_not_match_have_no_loss_and_no_recall(model, batch, embeddings):
    image, text = embeddings
    fewer = model.tower("text").encoder.preprocess(TEXTS[:2])
    said = r"rows differ in number \(image 3, text 2\)"
    refused(lambda: model(image=batch["image"], text=fewer), said)
    refused(lambda: model.pair_loss({"image": [image], "text": [text[:2]]}, None), said)
    refused(lambda: model.pair_loss({"image": [image]}, None), "no embeddings of text; give")
    said = "3 queries and 2 targets; give query_ids and target_ids"
    refused(lambda: recall(image, text[:2]), said)
    assert recall(image, text[:2], ["a", "b", "c"], ["a", "b"]).queries == 2
    refused(lambda: recall(image, text, [0, 1]), "3 rows of embeddings have 2 query_ids")
    refused(lambda: recall(image, text, 3, 3), "ids are an int")
    refused(lambda: recall(image[:0], text), "0 queries and 3 targets; give some of both")


@pytest.mark.parametrize("as_given", [np.asarray, torch.Tensor.tolist, torch.Tensor.double])
def test_embeddings_come_in_any_form(model, embeddings, as_given):
    image, text = embeddings
    found = model.similarity(as_given(image), as_given(text))
    assert torch.allclose(found.float(), model.similarity(image, text), atol=1e-5)
    assert recall(as_given(image), as_given(text)) == recall(image, text)
    whole = (image * 100).round()
    assert torch.equal(model.similarity(whole.long(), text), model.similarity(whole, text))


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (torch.ones(16), r"shape \(16,\) and float32 numbers; give embeddings \[N, D\]"),
        (torch.ones(1, 3, 16), r"shape \(1, 3, 16\)"),
        (torch.ones(3, 16, dtype=torch.bool), "bool numbers"),
        (torch.ones(3, 16, dtype=torch.complex64), "complex64 numbers"),
        (torch.ones(3, 5), r"embeddings differ in width \(.* 5, .* 16\); give those of one model"),
        (np.ma.masked_equal(np.eye(3, 16), 1), "is a masked array; fill it or leave rows out"),
        ([[1.0, 2.0], [1.0]], "is a list that holds no matrix of numbers"),
        (TEXTS, "is a list that holds no matrix of numbers"),
        (None, "is a NoneType that holds no matrix of numbers"),
    ],
)
def test_what_is_no_matrix_of_embeddings_is_refused(model, embeddings, odd, said):
    refused(lambda: model.similarity(odd, embeddings[1]), said, DataError)
    refused(lambda: recall(odd, embeddings[1]), said, DataError)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (np.eye(3, 16), r"a is a ndarray; give a tensor \[N, D\]"),
        (torch.ones(16), r"a has shape \(16,\)"),
        (torch.ones(3, 16, dtype=torch.long), "type torch.int64; give embeddings"),
        (torch.ones(3, 5), r"embeddings differ in width \(a 5, b 16\)"),
    ],
)
def test_a_loss_takes_matrices_of_embeddings(embeddings, odd, said):
    text = embeddings[1]
    for loss in (infonce, executed, lambda a, b, **how: sigmoid(a, b, bias=-1.0, **how)):
        refused(lambda: loss(odd, text, temperature=0.1), said, ValueError)  # noqa: B023
    for config in (Sigmoid(), Queue(loss=contrastive.losses.InfoNCE(), size=8)):
        refused(lambda: config.build()(odd, text), said, ValueError)  # noqa: B023


def test_rows_come_as_a_list_of_dicts(model, rows):
    expected = contrastive.evaluate(model, rows)
    named = [row | {"id": f"group {row['id']}"} for row in rows]
    assert contrastive.evaluate(model, named) == expected
    measured = compare_retrieval({"a": model, "b": model}, (row for row in rows))
    assert measured["b"].report == expected
    without = [{"image": row["image"], "text": row["text"]} for row in rows]
    found = contrastive.search(model, "a dog", samples=without)
    assert found == contrastive.search(model, "a dog", samples=rows)


def not_rows(folder):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    texts = {"text": TEXTS}
    return [
        (
            pandas.DataFrame(texts),
            "row 0: has no id; give each row one, equal in a group, in a col",
        ),
        (polars.LazyFrame(texts), r"a LazyFrame holds no rows of data; collect it: frame.collect"),
        (
            polars.DataFrame({"caption": TEXTS}),
            r"a DataFrame has no column 'text'; rename 'caption': frame.rename",
        ),
        (str(folder), r"a str holds no rows of data; build a dataset: .*\.build\('test'\)"),
        (
            ImageFolder(folder=folder),
            r"an ImageFolder .* build a split of it: data.build\('test'\)",
        ),
        (ImageFolder, "ImageFolder holds no rows of data; build"),
        ({"text": TEXTS}, "a dict holds no rows of data; give a built dataset, or a list of dicts"),
        (7, "an int holds no rows of data"),
        (TEXTS, "row 0 of the data is a str; give dicts, such as {'image': path"),
        ([{"text": "a dog", "image": "a.jpg"}], "row 0: has no id; give each row one"),
        ([{"text": "a dog", "id": 0, "source": "x:1"}, {"source": "x:2"}], "x:2: has no id"),
        ([{"text": "a dog", "id": 0.5}], "the id of row 0 is 0.5; ids are integers or strings"),
    ]


def test_what_holds_no_rows_is_refused(model, tmp_path):
    for data, said in not_rows(tmp_path):
        refused(lambda: contrastive.evaluate(model, data), said, DataError)  # noqa: B023


def test_folders_and_images_are_found_by_any_kind_of_path(model, photos, tmp_path):
    folder = photos[0].parent
    expected = contrastive.search(model, "a dog", images=folder)
    with os.scandir(folder.parent) as entries:
        entry = next(e for e in entries if e.name == folder.name)
    for path in (str(folder), PurePath(folder), entry):
        assert contrastive.search(model, "a dog", images=path) == expected
    with os.scandir(folder) as entries:
        files = sorted(entries, key=lambda e: e.name)
    embedded = model.embed("image", photos)
    for paths in (files, [PurePath(path) for path in photos]):
        assert torch.equal(model.embed("image", paths), embedded)
        model.embed("image", paths, cache=FeatureCache(str(tmp_path)))


def test_what_cannot_be_read_is_left_out_of_a_search(model, photos, capsys):
    found = contrastive.search(model, "a dog", images=[*photos, None])
    assert found == contrastive.search(model, "a dog", images=photos)
    assert "3: image: a NoneType is no image; give a path" in capsys.readouterr().err


def test_rows_that_a_dataset_left_out_are_said_by_a_search(model, tmp_path, photos, capsys):
    lines = ["image,text,split", *(f"{path.name},a dog,test" for path in photos), "no.png,x,test"]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    for path in photos:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = ImageFolder(folder=tmp_path, max_bad=0.5)
    contrastive.search(model, "a dog", samples=data.build("test"))
    assert "captions.csv:5: image 'no.png' is not in" in capsys.readouterr().err


@pytest.mark.parametrize("query", [None, "", " ", ["a dog"], ("a", "b"), {"a"}])
def test_a_query_is_one_sample(model, photos, query):
    said = "is no query; give words, the path of an image or another file, or a sample"
    refused(lambda: contrastive.search(model, query, images=photos), said, DataError)


def test_a_search_is_of_one_modality(model, photos):
    refused(lambda: contrastive.search(model, 7, texts=TEXTS), "an int is no image; give a path")
    said = "a dog: text finds image; to search a list, give find='text'"
    refused(lambda: contrastive.search(model, "a dog", texts=TEXTS), said)
    assert contrastive.search(model, "a dog", texts=TEXTS, find="text")[0].found == "a dog"
    said = "images and texts are given; search one of them"
    refused(lambda: contrastive.search(model, "a dog", images=photos, texts=TEXTS), said)
    said = "no audio tower; it has: image, text"
    refused(lambda: contrastive.search(model, "a dog", images=photos, find="audio"), said)


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_comes_first(model, photos, rows, verb):
    wrapped = nn.Sequential()
    wrapped.module = model
    odd = {
        "runs/clip": r"a model comes first, not its name; load it: load_model\('runs/clip'\)",
        photos[0]: "not its name; load it",
        model.spec: r"not its spec; build it: build_model\(spec\)",
        None: r"not a NoneType; load_model\(folder\) gives one",
        ContrastiveModel: "not ContrastiveModel; load_model",
        nn.Identity(): "not an Identity; load_model",
        wrapped: "give model.module",
    }
    for given, said in odd.items():
        refused(lambda: VERBS[verb](given, photos, rows), said, SpecError)  # noqa: B023


def test_a_log_is_lines(model):
    lines = [{"step": i, "loss": 4.16, "lr": 1e-9} for i in range(200)]
    expected = contrastive.diagnose(lines, batch=64)
    assert expected
    assert contrastive.diagnose((line for line in lines), batch=64) == expected
    for odd in ("runs/clip", None, ["step 1"], {"step": 1}, 7):
        refused(lambda: contrastive.diagnose(odd), "is no line of a log; give dicts")  # noqa: B023
    refused(lambda: contrastive.diagnose(lines, batch=0), "batch is 0; give a whole number")
    refused(lambda: model.embed(["a dog"], "text"), "takes a modality, such as 'text', before the")


def test_a_line_with_a_loss_has_a_step():
    said = "line 1 of the log has a loss without a step"
    refused(lambda: contrastive.diagnose([{"step": 1, "loss": 2.0}, {"loss": 2.0}]), said)


def test_several_models_have_names(model, photos):
    said = "models are a list; give a dict, such as {'one': model, 'two': other}"
    refused(lambda: contrastive.compare([model, model], photos, TEXTS), said, SpecError)
    refused(lambda: contrastive.compare(model, photos, TEXTS), "models are a ContrastiveModel")


@pytest.mark.parametrize("odd", [None, 7, "", ["a"], b"runs", True, "embed_dim: 8\na: b", "a\0b"])
def test_a_path_is_a_path(model, tmp_path, odd):
    refused(lambda: contrastive.load_model(odd), "folder is .*; give a path")
    refused(lambda: model.save(odd), "folder is .*; give a path")
    refused(lambda: contrastive.load_spec(odd), "path is .*; give a path")
    run = toy_dict(tmp_path / "data", images=4)
    if odd is not None:  # which is the spec's own
        refused(lambda: contrastive.train(run, odd), "output is .*; give a path")
        refused(lambda: FeatureCache(odd), "folder is .*; give a path")


def test_a_file_is_no_folder(model, photos, tmp_path):
    refused(lambda: contrastive.load_model(photos[0]), "no model here, but a file; give the folder")
    refused(lambda: model.save(photos[0]), "is a file; choose a new or empty folder")
    run = toy_dict(tmp_path / "data", images=4)
    said = "0.png: File exists; choose another output"
    refused(lambda: contrastive.train(run, photos[0]), said)
    for spec in (model.spec, SPEC):
        said = r"load_model takes a folder or a name; build_model\(spec\) builds"
        refused(lambda: contrastive.load_model(spec), said)  # noqa: B023
    refused(lambda: model.embed("text", TEXTS, cache="cache"), "cache is a str; give FeatureCache")
    said = "cache is a type; give FeatureCache"
    refused(lambda: model.embed("text", TEXTS, cache=FeatureCache), said)
    said = "owner/name: no model here; .*; a model of the Hugging Face Hub is hf:owner/name"
    refused(lambda: contrastive.load_model("owner/name"), said)
    model.save(tmp_path / "saved")
    said = "saved: is a saved model; choose another output"
    refused(lambda: contrastive.train(run, tmp_path / "saved"), said)


@pytest.mark.parametrize("odd", ["embed_dim=8", None, {"embed_dim": 8}, [8], 8])
def test_overrides_are_strings_in_a_list(tmp_path, odd):
    (tmp_path / "model.yaml").write_text("embed_dim: 4")
    said = "overrides: .* was given; give strings, in a list"
    refused(lambda: contrastive.load_spec(tmp_path / "model.yaml", overrides=odd), said)
