"""The command line: results on stdout, a mistake in one line with exit code 2, nothing else.

One model is trained, by the installed command in a process of its own; the tests share its folder.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import shlex
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from contrastive import RunSpec, classify, load_model, load_spec
from contrastive.components import REGISTRIES
from tests.conftest import SCRIPT
from tests.miniature import Picture
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

IN_TEST = [Picture(i) for i in range(48) if Picture(i).split == "test"]
CAPTIONS = [text for picture in IN_TEST for text in picture.captions]
TEXTS = ["a red circle", "a blue square", "nothing of the kind", "a green cross on pink"]
ASKED = ("--classes", "red circle, blue square,green cross")
NASTY = "\x1b[31mred\x1b[0m [bold]loud [link] :dog: \x9b2J"


@pytest.fixture(scope="module")
def shop(tmp_path_factory, process):
    """Return a folder with a run that an own process trained, and with whatever users get wrong."""
    shop = tmp_path_factory.mktemp("shop")
    spec = toy_dict(shop / "data", epochs=2)
    (shop / "toy.yaml").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTRASTIVE_CACHE", str(shop / "cache"))
        trained = process("train", "toy.yaml", cwd=shop)
    assert trained.code == 0, trained.err
    (shop / "stdout").write_text(trained.out)
    (shop / "stderr").write_text(trained.err)

    picture = IN_TEST[0].draw()
    picture.save(shop / "cat.jpg")
    for number, shown in enumerate(IN_TEST[:4]):
        (shop / "pictures" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        shown.draw().save(shop / "pictures" / str(number % 2) / f"{number}.PNG")
    (shop / "texts.txt").write_text("\n\n".join(TEXTS) + "\n")

    broken = shop / "broken"
    broken.mkdir()
    (broken / "text.jpg").write_text("a cat")
    (broken / "cut.jpg").write_bytes((shop / "cat.jpg").read_bytes()[:-300])
    (broken / "huge.png").write_bytes(png_header(60_000, 60_000))
    (shop / "empty").mkdir()
    (shop / "empty.txt").write_text("\n \n")
    shutil.copytree(shop / "runs" / "toy" / "model", shop / "damaged")
    flip_a_byte(shop / "damaged" / "model.safetensors")
    load_model(shop / "runs" / "toy").save(shop / "bare")
    return shop


@pytest.fixture
def here(shop, monkeypatch):
    """Stand in the folder, for paths as users write them."""
    monkeypatch.chdir(shop)
    return shop


@pytest.fixture
def model(shop):
    return load_model(shop / "runs" / "toy")


def png_header(width: int, height: int) -> bytes:
    """Return an image that claims a size and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((len(chunk) - 4, chunk, zlib.crc32(chunk)) for chunk in (header, b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(f">I{size + 4}sI", size, chunk, crc) for size, chunk, crc in chunks
    )


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def result(ended):
    """Return what a command with ``--json`` found."""
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def by_similarity(model, modality, query, other, candidates) -> list[tuple[str, float]]:
    """Return every candidate with its cosine, best first, by a loop."""
    asked = model.embed(modality, [query])[0].double()
    cosines = [
        (str(candidate), float(asked @ model.embed(other, [candidate])[0].double()))
        for candidate in candidates
    ]
    return sorted(cosines, key=lambda pair: -pair[1])


def assert_hits(hits, expected):
    assert [hit["found"] for hit in hits] == [found for found, _ in expected]
    cosines = [cosine for _, cosine in expected]
    assert [hit["similarity"] for hit in hits] == pytest.approx(cosines, abs=1e-5)


def test_training_goes_to_a_folder_with_the_name_of_the_spec(shop):
    assert (shop / "stdout").read_text() == "saved: runs/toy/model\n"
    told = (shop / "stderr").read_text()
    assert "epoch 2: image to text R@1" in told
    assert not {"\r", "\x1b"} & set(told), "a pipe is no terminal"


def test_training_that_stopped_goes_on_to_the_same_model(here, command):
    first = min((here / "runs" / "toy" / "checkpoints").iterdir())
    shutil.copytree(first, here / "again" / "checkpoints" / first.name)
    ended = command("train", "toy.yaml", "--output", "again", "--resume", "--json")
    assert result(ended) == {"model": "again/model"}
    assert "resumed at step 4 of 8" in ended.err
    whole, resumed = (Path(run) / "model" / "model.safetensors" for run in ("runs/toy", "again"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_evaluation_gives_recall_both_ways_with_interval_and_chance(here, command):
    report = result(command("evaluate", "--json"))
    assert report["split"] == "test"
    assert report["classification"] is None
    assert set(report["retrieval"]) == {"text_to_image", "image_to_text"}
    for way in report["retrieval"].values():
        assert sorted(way["recall"]) == ["1", "10", "5"]
        for figure in way["recall"].values():
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    text_to_image = report["retrieval"]["text_to_image"]
    assert (text_to_image["queries"], text_to_image["targets"]) == (40, 8)
    assert text_to_image["recall"]["1"]["chance"] == pytest.approx(1 / 8)
    shown = command("evaluate").out
    assert "text -> image" in shown
    assert f"{100 * text_to_image['recall']['5']['value']:.1f}" in shown


def test_evaluation_takes_another_split_or_the_data_of_another_spec(here, command):
    assert result(command("evaluate", "--split", "val", "--json"))["split"] == "val"
    rows = [f"{p.name},{p.captions[0]},{p.shape},test" for p in IN_TEST]
    folder = here / "data" / "flickr30k-images"
    (folder / "captions.csv").write_text("\n".join(["image,text,label,split", *rows]))
    spec = toy_dict(here / "data")
    spec["data"] = {"type": "image-folder", "folder": str(folder)}
    (here / "labelled.yaml").write_text(json.dumps(spec))
    report = result(command("evaluate", "--data", "labelled.yaml", "--json"))
    assert report["classification"]["images"] == len(IN_TEST)
    assert report["classification"]["classes"] == len({p.shape for p in IN_TEST})
    assert "majority class" in command("evaluate", "--data", "labelled.yaml").out


def test_classification_gives_each_picture_probabilities_that_sum_to_1(here, model, command):
    pictures = ["cat.jpg", "pictures/1/1.PNG"]
    templates = ["a picture of a {}", "{} on white"]
    repeated = [word for template in templates for word in ("--template", template)]
    found = result(command("classify", *pictures, *ASKED, *repeated, "--json"))
    names = ["red circle", "blue square", "green cross"]
    expected = classify(model, pictures, names, templates=templates)
    assert [answer["image"] for answer in found] == pictures
    for answer, row in zip(found, expected.tolist(), strict=True):
        assert list(answer["probabilities"]) == names
        assert list(answer["probabilities"].values()) == pytest.approx(row, abs=1e-6)
        assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_classification_shows_as_many_names_as_asked_best_first(here, command):
    (answer,) = result(command("classify", "cat.jpg", *ASKED, "--json"))
    best = sorted(answer["probabilities"], key=answer["probabilities"].get, reverse=True)
    for top in (1, 2, 3, 10):
        shown = command("classify", "cat.jpg", *ASKED, "--top", top).out
        assert [name for name in best if name in shown] == best[:top]
        places = [shown.index(name) for name in best[:top]]
        assert places == sorted(places)


def test_words_find_the_pictures_of_a_folder(here, model, command):
    found = result(command("search", TEXTS[0], "--images", "pictures", "-k", 3, "--json"))
    pictures = sorted(Path("pictures").rglob("*.PNG"))
    assert_hits(found, by_similarity(model, "text", TEXTS[0], "image", pictures)[:3])


def test_words_find_the_pictures_of_a_split(here, model, command):
    spec = load_spec(RunSpec, "toy.yaml")
    for split in ("test", "val", "train+val"):
        found = result(command("search", TEXTS[0], "--split", split, "-k", 5, "--json"))
        rows = spec.data.build(split)
        pictures = list(dict.fromkeys(rows[i]["image"] for i in range(len(rows))))
        assert_hits(found, by_similarity(model, "text", TEXTS[0], "image", pictures)[:5])


def test_a_picture_finds_the_lines_of_a_file(here, model, command):
    found = result(command("search", "cat.jpg", "--texts", "texts.txt", "--json"))
    assert_hits(found, by_similarity(model, "image", "cat.jpg", "text", TEXTS))
    places = {text: f"texts.txt:{2 * number + 1}" for number, text in enumerate(TEXTS)}
    assert {hit["found"]: hit["source"] for hit in found} == places


def test_a_picture_finds_the_captions_of_a_split(here, model, command):
    found = result(command("search", "cat.jpg", "-k", 100, "--json"))
    assert_hits(found, by_similarity(model, "image", "cat.jpg", "text", CAPTIONS))
    shown = command("search", "cat.jpg", "-k", 1).out
    assert f"{found[0]['similarity']:.3f}" in shown


def test_pictures_that_cannot_be_read_are_named_and_left_out(here, command):
    mixed = here / "mixed"
    shutil.copytree(here / "broken", mixed)
    shutil.copy(here / "cat.jpg", mixed)
    ended = command("search", "a cat", "--images", mixed, "--json", "--model", "runs/toy")
    assert ended.code == 3
    assert [hit["found"] for hit in json.loads(ended.out)] == [str(mixed / "cat.jpg")]
    assert all(f"{name}: " in ended.err for name in ("text.jpg", "cut.jpg", "huge.png"))


def test_names_and_labels_reach_the_terminal_without_what_it_would_obey(here, command, tmp_path):
    name = "a\nforged: saved.png\x1b[31m\u202e.png"
    try:
        (tmp_path / name).write_bytes(Path("cat.jpg").read_bytes())
        (tmp_path / f"broken{name}").write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such names")
    for line in (
        ["search", "cat", "--images", tmp_path],
        ["classify", "cat.jpg", "--classes", "a\x1b[2J,b\nforged"],
    ):
        ended = command(*line)
        shown = ended.out + ended.err
        assert not {"\x1b", "\u202e"} & set(shown)
        assert not any(line.startswith("forged") for line in shown.splitlines())
        assert "forged" in ended.out, "it is shown all the same"


def test_a_spec_that_fits_is_said_to_be_ok(here, command):
    assert command("validate", "toy.yaml").out == "toy.yaml: ok\n"
    full = result(command("validate", "toy.yaml", "training.epochs=7", "--json"))
    assert full["training"]["epochs"] == 7
    (here / "full.json").write_text(json.dumps(full))
    assert result(command("validate", "full.json", "--json")) == full
    (here / "model.json").write_text(json.dumps(full["model"]))
    assert result(command("validate", "model.json", "--json")) == full["model"]


def test_the_schema_and_the_components_are_listed_with_the_builtin_ones(command, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_PLUGINS", "none")
    schema = result(command("schema"))
    parts = result(command("plugins", "--json"))
    listed = {(part["kind"], part["name"]): part["state"] for part in parts}
    shown = command("plugins").out
    for registry in REGISTRIES:
        kind = registry.interface.kind
        for name in registry.registered:
            assert listed[kind, name] == "ok"
            assert name in str(schema["$defs"][kind])
            assert name in shown


def test_without_a_name_the_newest_run_is_meant(here, command, monkeypatch):
    assert "model: runs/toy\n" in command("search", "a cat", "--images", "pictures").err
    newer = here / "runs" / "newer"
    shutil.copytree(here / "runs" / "toy" / "model", newer / "model")
    (here / "runs" / "unfinished").mkdir()  # a run that failed before its first checkpoint
    try:
        assert "model: runs/newer\n" in command("search", "a cat", "--images", "pictures").err
        monkeypatch.setenv("CONTRASTIVE_MODEL", "damaged")
        assert "damaged/model.safetensors: " in command("search", "a cat").err
        assert command("search", "a cat", "--images", "pictures", "-m", "runs/toy").code == 0
    finally:
        shutil.rmtree(newer)


def test_without_a_run_the_remedy_is_named(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ended = command("evaluate")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "no model: give --model FOLDER, or train one with: contrastive train SPEC.yaml\n"
    )


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        (["evaluate"], "--data"),
        (["probe"], "--data"),
        (["search", "a cat"], "--data, --images, --texts or --index"),
        (["caption", "cat.jpg"], "--corpus or --data"),
    ],
)
def test_a_model_whose_data_are_gone_says_how_to_give_others(here, command, line, remedy):
    folder = Path(load_spec("toy.yaml").data.folder)
    away = folder.rename(folder.with_name("away"))
    try:
        ended = command(*line, "-m", "runs/toy")
    finally:
        away.rename(folder)
    assert ended.code == 2
    assert ended.err.endswith(f"; runs/toy was trained on these data; give them by {remedy}\n")


def test_a_file_that_the_disk_has_no_room_for_is_named(here, command, monkeypatch):
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(Image.Image, "save", full)
    ended = command("generate", "cat", "-o", "full.png", "--size", "16", "--steps", "1")
    assert (ended.code, ended.err.splitlines()[-1]) == (2, "full.png: No space left on device")


NEW = "train toy.yaml --output runs/new"
MISTAKES = {
    "train nonesuch.yaml": "nonesuch.yaml: no such file",
    "train toy.yaml training.epoch=1": "did you mean 'epochs'?",
    "train toy.yaml": "runs/toy: holds a run already; go on with resume=True (--resume)",
    f"{NEW} --resume": "nothing to resume here; to begin, leave out resume=True (--resume)",
    "train training.epochs=1": "training.epochs=1: is an override; give the spec before it",
    "train pictures": "pictures: is a folder; give the file of a spec",
    "train toy.yaml --output cat.jpg/run": "cat.jpg/run: Not a directory",
    f"{NEW} training.device=abacus": "device 'abacus' is not available",
    f"{NEW} data.folder=nonesuch": "nonesuch: ",
    f"{NEW} training.split=nonesuch": "nonesuch",
    f"{NEW} training.split=train+test evaluation.split=test": "'test' shares 40 of 40 image rows",
    f"{NEW} model.towers.image.encoder.name=resnet81": "did you mean resnet18",
    f"{NEW} model.towers.image.encoder.weights=nonesuch": "weights: nonesuch: no such file",
    "evaluate --split train": "'train' shares 160 of 160 image rows with the training",
    "evaluate --split nonesuch": "nonesuch",
    "evaluate -m nonesuch": "nonesuch: no model here; train one with: contrastive train",
    "evaluate -m empty": "empty: no model here",
    "generate cat -o cat.png --seed 99999999999999999999": "give a whole number of at least 0, bel",
    "evaluate -m toy.yaml": "toy.yaml: no model here",
    "evaluate -m bare": "bare: holds a model without a run, so without data; give --data",
    "evaluate -m damaged": "damaged",
    "classify cat.jpg -m damaged --classes cat": "model.safetensors: damaged (its SHA-256",
    "classify cat.jpg --classes cat --device abacus": "device 'abacus' is not available",
    "classify cat.jpg --classes ''": "--classes: is empty",
    "classify cat.jpg --classes ' , '": "at least one class",
    "classify cat.jpg": "give the classes: --classes dog,cat or --classes-file FILE",
    "classify cat.jpg --classes-file empty.txt": "empty.txt:1: the file is empty",
    "classify cat.jpg --classes a --classes-file texts.txt": "--classes and --classes-file: give o",
    "classify broken/cut.jpg broken/text.jpg --classes cat": "broken/cut.jpg: image file is trunc",
    "classify cat.jpg --classes cat,dog,cat": "class 'cat' is given twice",
    "classify cat.jpg --classes cat --template 'a cat'": "template 'a cat' has no {}",
    "classify nonesuch.jpg --classes cat": "nonesuch.jpg: cannot be read: No such file",
    "classify broken/text.jpg --classes cat": "broken/text.jpg: not a readable JPEG",
    "classify broken/cut.jpg --classes cat": "broken/cut.jpg: image file is truncated",
    "classify broken/huge.png --classes cat": "broken/huge.png: Image size (3600000000",
    "classify pictures --classes cat": "pictures: is a folder; give the files in it",
    "search nonesuch.jpg": "nonesuch.jpg: no such image",
    "search broken/text.jpg --texts texts.txt": "broken/text.jpg: not a readable JPEG",
    "search cat.jpg --texts nonesuch.txt": "nonesuch.txt: no such file",
    "search cat.jpg --texts cat.jpg": "cat.jpg:1: the text ",
    "search cat.jpg --texts empty.txt": "empty.txt:1: the file is empty",
    "search cat.jpg --images pictures": "to search pictures, give find='image' (--find image)",
    "search cat --texts texts.txt": "cat: text finds image; to search texts.txt, give find='text'",
    "search cat --images nonesuch": "nonesuch: no such folder",
    "search cat --images empty": "empty: no images here (.jpg, .jpeg,",
    "search cat --split nonesuch": "nonesuch",
    "validate toy.yaml nonsense": "override 'nonsense': write it as a.b=value",
    "schema --of nonesuch": "--of 'nonesuch': write run or model",
    "schema --output nonesuch/schema.json": "nonesuch/schema.json: No such file or directory",
}


@pytest.mark.parametrize(("line", "words"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_told_in_one_line(line, words, here, command, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_MODEL", "runs/toy")
    ended = command(*shlex.split(line))
    assert (ended.code, ended.out) == (2, "")
    *progress, said = ended.err.splitlines()
    assert words in said
    assert len(said) < 300
    assert all(line.startswith("encoding image: ") for line in progress)
    assert not list(Path("runs/new").glob("*"))


def test_when_nothing_can_be_read_nothing_is_found(here, command):
    ended = command("search", "cat", "--images", "broken", "-m", "runs/toy")
    assert (ended.code, ended.out) == (2, "")
    *named, said = ended.err.splitlines()
    assert said == "nothing to search: none of 3 image samples can be read"
    assert sum(line.startswith("broken/") for line in named) == 3


@pytest.mark.parametrize("name", ["model.safetensors", "spec.json", "parts.json"])
def test_a_damaged_or_missing_file_of_a_model_is_named(name, here, command, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(here / "runs" / "toy" / "model", folder)
    flip_a_byte(folder / name)
    for problem in ("damaged (its SHA-256 is not the manifest's)", "no such file"):
        ended = command("classify", "cat.jpg", "--classes", "cat", "-m", folder)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith(f"{folder / name}: {problem}")
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    "line",
    [
        "nonesuch",
        "train",
        "train toy.yaml --nonesuch",
        "classify --classes cat",
        "classify cat.jpg --classes cat --top 0",
        "search",
        "search cat -k 0",
        "search cat -k many",
        "evaluate --clip-benchmark cat.jpg",
        "plugins --limit inf",
    ],
)
def test_wrong_use_is_explained_on_stderr(line, here, command):
    ended = command(*shlex.split(line))
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: " in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("verb", ["evaluate", "probe", "compositional tests.json"])
def test_a_folder_that_results_cannot_be_written_to_is_told_before_they_are_measured(
    verb, here, command
):
    ended = command(*shlex.split(verb), "-m", "nonesuch", "--clip-benchmark", "cat.jpg/out")
    assert (ended.code, ended.out) == (2, "")
    assert "cat.jpg: is no folder; name another folder for the results" in ended.err


def test_a_terminal_does_not_obey_the_names_and_texts_of_strangers(here, command):
    folder = here / "strange"
    folder.mkdir()
    shutil.copy(here / "cat.jpg", folder / f"{NASTY}.jpg")
    (folder / f"{NASTY}.png").write_text("not a picture")
    (here / "strange.txt").write_text(f"{NASTY}\n[/red] unclosed\n", encoding="utf-8")
    outcomes = [
        command("search", "a cat", "--images", folder),
        command("search", "cat.jpg", "--texts", "strange.txt"),
        command("classify", folder / f"{NASTY}.jpg", "--classes", f"{NASTY},[/red]"),
        command("classify", folder / f"{NASTY}.png", "--classes", "cat"),
        command("validate", f"{NASTY}.yaml"),
        command("evaluate", "--split", NASTY),
        command("evaluate", "-m", NASTY),
    ]
    assert [ended.code for ended in outcomes] == [3, 0, 0, 2, 2, 2, 2]
    for ended in outcomes:
        shown = ended.out + ended.err
        assert not {"\x1b", "\x9b"} & set(shown)
        assert "[bold]loud [link]" in shown
        assert ":dog:" in shown
    assert ":dog:" in outcomes[0].err, "the image that cannot be read is named"
    assert "[/red] unclosed" in outcomes[1].out
    (hit,) = json.loads(command("search", "a cat", "--images", folder, "--json").out)
    assert hit["found"] == str(folder / f"{NASTY}.jpg"), "a machine gets the name as it is"


def test_an_encoding_without_the_letters_is_no_error(here, command, monkeypatch):
    (here / "accents.txt").write_text("ein grüner Kreis\n猫\n", encoding="utf-8")
    asked = ("search", "cat.jpg", "--texts", "accents.txt", "-m", "runs/toy")
    with monkeypatch.context() as patch:
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        patch.setattr(sys, "stdout", out)
        shown = command(*asked)
        out.flush()
    assert shown.code == 0, shown.err
    assert rb"ein gr\xfcner Kreis" in out.buffer.getvalue()
    machine = command(*asked, "--json")
    assert machine.out.isascii()
    assert {hit["found"] for hit in result(machine)} == {"ein grüner Kreis", "猫"}


@pytest.mark.usefixtures("here")
def test_a_dumb_terminal_gets_plain_text(command, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = pty.openpty()
    with monkeypatch.context() as patch, open(theirs, "w", encoding="utf-8") as terminal:  # noqa: PTH123
        patch.setattr(sys, "stdout", terminal)
        patch.setattr(sys, "stderr", terminal)
        ended = command("search", "a cat", "--images", "pictures")
        terminal.flush()
        shown = os.read(ours, 100_000).decode().replace("\r\n", "\n")
    os.close(ours)
    assert ended.code == 0, shown
    assert "encoding image" in shown
    assert "cosine" in shown
    assert not {"\x1b", "\r"} & set(shown)


def test_a_reader_that_has_seen_enough_is_no_error(process):
    line = f"{shlex.quote(str(SCRIPT))} schema | head -c 1"
    ended = subprocess.run(line, shell=True, capture_output=True, check=True)
    assert ended.stdout == b"{"
    assert ended.stderr == b""
