"""How every verb names its model, its data and its output, and what its exit code says."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap

import pytest

from contrastive import build_model
from contrastive.datasets.miniature import write_image_folder
from tests.conftest import SCRIPT
from tests.miniature import Picture
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

IMAGE = {"encoder": {"type": "resnet", "layers": [1, 1, 1, 1], "width": 4, "image_size": 24}}
TEXT = {"encoder": {"type": "cbow", "width": 12, "buckets": 64}}
HEAD = {"head": {"type": "linear"}}
MODEL = {"embed_dim": 8, "towers": {"image": IMAGE | HEAD, "text": TEXT | HEAD}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a model that no run made, and data in the forms that people have."""
    place = tmp_path_factory.mktemp("place")
    build_model(MODEL | {"loss": {"type": "infonce"}}).save(place / "saved")
    write_image_folder(place / "captioned")
    for number in range(12):
        (place / "alone" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        Picture(number).draw().save(place / "alone" / f"{number % 2}" / f"{number}.png")
    (place / "plain").mkdir()
    Picture(0).draw().save(place / "plain" / "0.png")
    Picture(1).draw().save(place / "plain" / "1.png")
    (place / "empty").mkdir()
    run = toy_dict(place / "flickr") | {"model": MODEL | {"loss": {"type": "infonce"}}}
    (place / "model.yaml").write_text(json.dumps(run["model"]))
    (place / "run.yaml").write_text(json.dumps(run))
    return place


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("CONTRASTIVE_MODEL", "saved")
    return place


def rows(done):
    """Return how many images were measured."""
    assert done.code == 0, done.err
    return json.loads(done.out)["retrieval"]["image_to_text"]["queries"]


def test_data_are_a_spec_or_a_folder_or_fields(here, command):
    by_folder = command("evaluate", "--data", "captioned", "--json")
    assert "captioned: taken as data.type=image-folder" in by_folder.err
    by_fields = command("evaluate", "-d", "type=image-folder,folder=captioned", "--json")
    assert by_fields.out == by_folder.out
    assert "taken as" not in by_fields.err
    of_flickr = command("evaluate", "--data", "flickr", "--json")
    assert "flickr: taken as data.type=flickr30k" in of_flickr.err
    assert rows(of_flickr) > 0
    val = command("evaluate", "--data", "captioned", "--split", "train", "--json")
    assert rows(val) > rows(by_folder)
    assert rows(command("evaluate", "--data", "run.yaml", "--json")) > 0


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("nothing", "nothing: no such file"),
        ("empty", "empty: no images here"),
        ("type=image-folder,foldr=captioned", "did you mean 'folder'?"),
        (
            "type=image-foldr,folder=captioned",
            "--data: 'type=image-foldr': unknown dataset 'image-foldr'",
        ),
        ("folder=captioned", "needs a 'type'"),
        ("plain", "has no text for towers.text"),
        ("saved", "saved: no images here"),
        ("", "--data: is empty"),
        ("model.yaml", "model.yaml: describes a model, without data"),
        ("alone/0/0.png", "give the folder that it is in"),
    ],
)
def test_data_that_cannot_be_measured_are_one_line(here, command, data, told):
    done = command("evaluate", "--data", data)
    assert done.code == 2
    assert told in done.err.splitlines()[-1]


def test_a_run_is_not_taken_for_data(here, command):
    run = here / "runs" / "clip"
    shutil.copytree(here / "saved", run / "model", dirs_exist_ok=True)
    done = command("evaluate", "--data", "runs/clip")
    assert done.code == 2
    assert "runs/clip: is a run, not data; a model is given by --model runs/clip" in done.err


def test_a_search_looks_through_all_images_of_a_folder(here, command):
    done = command("search", "a circle", "--data", "alone", "-k", "50", "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)) == 12
    same = command("search", "a circle", "--images", "alone", "-k", "50", "--json")
    assert json.loads(done.out) == json.loads(same.out)
    both = command("search", "a circle", "--data", "alone", "--images", "alone")
    assert (both.code, both.err) == (2, "--data alone: give it, or --images or --texts, not both\n")


def test_captions_come_from_the_data_that_are_given(here, command):
    done = command("caption", "alone/0/0.png", "--data", "captioned", "--split", "train", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)[0]["captions"][0]["source"].startswith("captions.csv:")
    both = command("caption", "alone/0/0.png", "--data", "captioned", "--corpus", "words.txt")
    assert both.code == 2
    assert "give one of them" in both.err


def test_class_names_may_have_commas_and_stand_in_a_file(here, command):
    names = ["great white shark, man-eater", "tench, Tinca tinca", "goldfish"]
    (here / "names.txt").write_text("\n".join(names) + "\n\n")
    joined = '"great white shark, man-eater", "tench, Tinca tinca", goldfish'
    image, found = "alone/0/0.png", []
    for how in (("--classes", joined), ("--classes-file", "names.txt")):
        done = command("classify", image, *how, "--json")
        assert done.code == 0, done.err
        found.append(json.loads(done.out)[0]["probabilities"])
    assert list(found[0]) == names
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "line",
    [
        "classify --classes a,b",
        "answer --question what? --answers a,b",
        "caption --data captioned --split train",
    ],
)
def test_an_image_that_cannot_be_read_is_told_and_the_others_go_on(here, command, line, tmp_path):
    verb, *options = line.split()
    broken = tmp_path / "cut.png"
    broken.write_bytes((here / "alone/0/0.png").read_bytes()[:-40])
    done = command(verb, "alone/0/0.png", broken, "alone/1/1.png", *options, "--json")
    assert done.code == 3, done.err
    assert [each["image"] for each in json.loads(done.out)] == ["alone/0/0.png", "alone/1/1.png"]
    assert f"{broken}: " in done.err


def test_what_is_left_out_ends_with_3(here, command, tmp_path):
    write_image_folder(tmp_path / "cut")
    images = sorted((tmp_path / "cut").rglob("*.jpg"))
    assert images
    whole = command("evaluate", "--data", tmp_path / "cut", "--json")
    assert whole.code == 0
    for image in images:
        image.write_bytes(image.read_bytes()[: 2 * image.stat().st_size // 3])
        break
    fields = f"type=image-folder,folder={tmp_path / 'cut'},max_bad=1"
    asked = ("evaluate", "--data", fields, "--split", "train+val+test", "--json")
    done = command(*asked)
    assert images[0].name in done.err
    assert done.code == 3, "done, but for what was left out"
    assert json.loads(done.out)["retrieval"]["image_to_text"]["queries"] == len(images) - 1

    shutil.copytree(here / "alone", tmp_path / "some")
    (tmp_path / "some" / "broken.png").write_text("no image")
    found = command("search", "a circle", "--images", tmp_path / "some", "--json")
    assert found.code == 3
    assert "broken.png" in found.err
    assert len(json.loads(found.out)) == 10


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("--classes a --classes b", "--classes: is given 2 times; give it once"),
        ("--classes a,b -m saved --model saved", "--model: is given 2 times; give it once"),
        ("--classes=", "--classes: is empty; give a value"),
        ("--classes a,b --templates=", "--templates: is empty; give a value"),
        ("--classes a,b --template {} --template=", "--template: is empty; give a value"),
        ("--classes a,b --model=", "--model: is empty; give a value"),
    ],
)
def test_no_value_of_an_option_is_dropped(here, command, asked, told):
    done = command("classify", "alone/0/0.png", *asked.split())
    assert (done.code, done.out, done.err) == (2, "", f"{told}\n")
    done = command("classify", "", "--classes", "a,b")
    assert (done.code, done.err) == (2, "images: is empty; give a value\n")
    several = ("--classes", "a,b", "--template", "{}", "--template", "a {}", "--json", "--json")
    assert command("classify", "alone/0/0.png", *several).code == 0


@pytest.mark.parametrize(
    ("plot", "told"),
    [
        ("curve.txt", "end its name with one of .png"),
        ("no/a.png", "no folder no"),
        ("folder.png", "is a folder; name another file for the plot"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused_before_any_work(here, command, plot, told):
    (here / "folder.png").mkdir(exist_ok=True)
    asked = ("probe", "--shots", "1", "--model", "no model is looked for", "--plot", plot)
    done = command(*asked)
    assert done.code == 2
    assert told in done.err
    assert "no model here" not in done.err


def test_the_newest_run_is_the_one_that_wrote_a_model_last(here, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONTRASTIVE_MODEL")
    for age, name in enumerate(("new", "old")):
        shutil.copytree(here / "saved", tmp_path / "runs" / name / "model")
        os.utime(tmp_path / "runs" / name / "model", (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "old" / "notes.txt").write_text("written since")
    done = command("search", "a circle", "--images", here / "alone")
    assert "model: runs/new" in done.err


def test_verbs_and_options_are_completed(process, monkeypatch):
    monkeypatch.setenv("_CONTRASTIVE_COMPLETE", "complete_bash")
    for typed, found in {
        "contrastive ev": "evaluate",
        "contrastive probe --inp": "--inputs",
    }.items():
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
        assert process().out.split() == [found]


@pytest.mark.parametrize(
    ("line", "code", "out"),
    [
        ("validate model.yaml >&-", 0, b""),
        ("validate model.yaml <&- >&- 2>&-", 0, b""),
        ("validate nothing.yaml 2>&-", 2, b""),
        ("evaluate --model nothing 2>/dev/full", 2, b""),
        ("validate model.yaml >/dev/full", 2, b""),
        ("validate model.yaml", 0, b"model.yaml: ok\n"),
    ],
)
def test_the_exit_code_needs_no_reader(here, line, code, out):
    done = subprocess.run(
        f"{shlex.quote(str(SCRIPT))} {line}", shell=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, out)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("line", ["validate model.yaml", "--help", "plugins", "evaluate --nothing"])
def test_a_pipe_whose_reader_is_gone_ends_with_141(here, line):
    reader, writer = os.pipe()
    os.close(reader)
    alone = os.environ | {"CONTRASTIVE_PLUGINS": "none"}  # a listing starts a process for each
    done = subprocess.run(
        [SCRIPT, *line.split()], stdout=writer, stderr=subprocess.STDOUT, env=alone, check=False
    )
    os.close(writer)
    assert done.returncode == 141


def test_json_of_a_run_that_diverged_is_json(here, command, tmp_path):
    run = {"step": 0, "run": {"batch": 32, "loss": {"type": "infonce"}}}
    steps = [{"step": i, "loss": float("nan")} for i in range(1, 101)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in (run, *steps)))
    done = command("doctor", tmp_path, "--json")
    assert done.code == 1, "a finding"
    found = json.loads(done.out, parse_constant=pytest.fail)["findings"]
    assert found[0]["evidence"]["loss"] is None


ODD_PARTS = {
    "run": {"loss": " "},
    "evaluation": {"retrieval": {"image_to_text": {"recall": {}}}},
    "gradients": {"image.head": "large"},
    "finding": {},
}


@pytest.mark.parametrize("part", ODD_PARTS)
def test_a_line_of_a_log_with_a_part_of_another_shape_is_left_out(here, command, tmp_path, part):
    lines = [{"step": i, "loss": 1.0} for i in range(1, 5)]
    lines.append({"step": 4, "epoch": 1.0, part: ODD_PARTS[part]})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = command("doctor", tmp_path)
    assert done.code == 3, "something was left out"
    assert "log.jsonl: 1 line is no line of a log, left out" in done.err


@pytest.mark.parametrize("line", ["[1]", "7", "null", '{"loss": 2.0}', "\ufeff"])
def test_a_log_without_steps_is_told_in_one_line(here, command, tmp_path, line):
    (tmp_path / "log.jsonl").write_text(line, encoding="utf-8")
    done = command("doctor", tmp_path)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "no steps here to judge" in done.err


def test_no_columns_are_as_if_none_were_told(process, monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    assert "--upgrade" in process("validate", "--help").out


def python(code):
    line = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_ctrl_c_while_the_command_is_imported_is_no_traceback():
    told = python(
        """
        import builtins, signal
        from contrastive.__main__ import main

        def interrupted(name, *args, real=builtins.__import__):
            if name == "typer":
                signal.raise_signal(signal.SIGINT)
            return real(name, *args)

        builtins.__import__ = interrupted
        main()
        """
    )
    assert (told.returncode, told.stderr) == (130, "")


def test_ctrl_c_where_python_raises_nothing_comes_a_moment_later():
    """As around the fork of a worker: Python would only print it, and go on."""
    told = python(
        """
        import signal, sys, threading
        from contrastive import cli

        class Interrupted:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)

        def verb():
            Interrupted()
            threading.Event().wait(60)
            print("was not interrupted")

        cli.app = verb
        cli.main()
        """
    )
    assert told.returncode == 130
    assert told.stdout == ""
    assert told.stderr.startswith("interrupted;"), told.stderr


def test_ctrl_c_that_python_drops_at_the_end_is_no_traceback():
    told = python(
        """
        import signal
        from contrastive import cli

        class Interrupted:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)

        cli.app = lambda: Interrupted() and None
        cli.main()
        """
    )
    assert told.stderr == ""


def test_a_second_ctrl_c_while_the_first_is_told_is_no_traceback():
    told = python(
        """
        import signal, sys
        from contrastive import cli
        from contrastive.__main__ import main

        class Interrupting:
            def write(self, text):
                signal.raise_signal(signal.SIGINT)

        def verb():
            sys.stderr = Interrupting()
            signal.raise_signal(signal.SIGINT)

        cli.app = verb
        try:
            main()
        finally:
            sys.stderr = sys.__stderr__
        """
    )
    assert told.returncode == 130
    assert told.stderr == ""


def test_a_reader_that_has_seen_enough_is_no_error():
    line = f"{shlex.quote(str(SCRIPT))} schema | head -c 1"
    ended = subprocess.run(line, shell=True, capture_output=True, check=True)
    assert ended.stdout == b"{"
    assert ended.stderr == b""
