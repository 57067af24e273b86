"""``contrastive plugins new`` writes a package that works at the first try."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contrastive import testing

MADE = {
    "bright-spots": ("encoder", "--modality", "image"),
    "trigrams": ("encoder", "--modality", "text"),
    "heart-rate": ("encoder", "--modality", "ecg"),
    "calm": ("head",),
    "wide-margin": ("loss",),
    "shop2": ("dataset",),
}
# nightly: encoders of other modalities, which differ from the first in a few lines, and what needs
# fewer checks than an encoder; each is clean, valid and listed by day
OTHERS = ["trigrams", "heart-rate", "calm", "shop2"]
BY_DAY = [name for name in MADE if name not in OTHERS]
NAMES = ["image", "path", "tensor", "module", "test", "class", "type", "a", "x" * 23]
EACH = """\
import os, pytest, sys
for folder in sys.argv[1:]:
    os.chdir(folder)
    assert pytest.main([]) == 0
"""


def python(*args, cwd, site=None):
    env = os.environ | ({"PYTHONPATH": str(site)} if site else {})
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory, process):
    """Make a package of each kind, and install them as their authors would."""
    folder = tmp_path_factory.mktemp("made")
    for name, (kind, *more) in MADE.items():
        ended = process("plugins", "new", name, "--kind", kind, *more, cwd=folder)
        assert ended.code == 0, ended.err
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", "site"]
    packages = [f"./contrastive-{name}" for name in MADE]
    python("-m", "pip", "install", *options, *packages, cwd=folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(testing, "check_component"), reason="it needs the kit")
@pytest.mark.parametrize(
    "names", [BY_DAY, pytest.param(OTHERS, marks=pytest.mark.nightly)], ids=",".join
)
def test_new_packages_pass_their_own_tests(names, made):
    folders = [made / f"contrastive-{name}" for name in names]
    told = python("-c", EACH, *folders, cwd=made, site=made / "site")  # torch is imported once
    assert told.count(" passed") == len(names)
    assert " skipped" not in told


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_new_package_is_clean_and_its_example_is_a_valid_spec(name, made, process):
    folder = made / f"contrastive-{name}"
    python("-m", "ruff", "check", "--no-cache", cwd=folder)
    python("-m", "ruff", "format", "--check", "--no-cache", cwd=folder)
    ended = process("validate", "example.yaml", "--json", cwd=folder, site=made / "site")
    assert (ended.code, ended.err) == (0, "")
    assert f'"type": "{name}"' in ended.out


@pytest.mark.slow
def test_new_packages_are_listed_as_sound_and_import_no_torch(made, process, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_PLUGINS", ",".join(f"contrastive-{name}" for name in MADE))
    ended = process("plugins", "--json", site=made / "site")
    found = {e["name"]: (e["kind"], e["state"], e["torch"]) for e in json.loads(ended.out)}
    for name, (kind, *_) in MADE.items():
        assert found[name] == (kind, "ok", False)


def test_a_new_package_has_what_a_package_needs_and_the_command_says_what_is_next(
    command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    ended = command("plugins", "new", "acme-corp", "--kind", "loss", "--output", "my loss")
    files = {str(path.relative_to("my loss")) for path in Path("my loss").rglob("*")}
    assert files >= {
        ".github/workflows/test.yml",
        ".gitignore",
        "README.md",
        "contrastive_acme_corp/__init__.py",
        "contrastive_acme_corp/margin.py",
        "contrastive_acme_corp/py.typed",
        "example.yaml",
        "pyproject.toml",
        "tests/test_acme_corp.py",
    }
    menu = Path("my loss/contrastive_acme_corp/__init__.py").read_text()
    assert "class AcmeCorpLoss(Scaled)" in menu
    written = [path for path in Path("my loss").rglob("*") if path.is_file()]
    assert "acme-corp-corp" not in "".join(path.read_text() for path in written)
    assert ended.out.splitlines()[:4] == [
        "written: my loss (9 files)",
        "next:",
        "cd 'my loss'",
        "python -m pip install --editable . pytest",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "head", "loss", "dataset"])
def test_any_name_makes_a_package_of_clean_python(kind, command, tmp_path):
    for name in NAMES:
        ended = command("plugins", "new", name, "--kind", kind, "--output", tmp_path / name)
        assert ended.code == 0, ended.err
    python("-m", "ruff", "check", "--no-cache", cwd=tmp_path)
    python("-m", "ruff", "format", "--check", "--no-cache", cwd=tmp_path)


@pytest.mark.parametrize(
    "name", ["Acme", "two--hyphens", "a_b", "9lives", "kit", "scaled", "x" * 24, "é", "../up", " "]
)
def test_a_name_that_cannot_be_a_package_is_refused(name, command, tmp_path):
    ended = command("plugins", "new", name, "--kind", "loss", "--output", tmp_path / "made")
    assert ended.code == 2
    assert ended.err.startswith(f"{name!r} cannot be the name of a package: write lower-case")
    assert not (tmp_path / "made").exists()


def test_a_name_that_is_taken_is_refused(command, installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    installed("good")
    for name, kind, taken in [
        ("linear", "head", "is built in"),
        ("good-image", "encoder", "is taken by contrastive-good"),
    ]:
        ended = command("plugins", "new", name, "--kind", kind)
        assert ended.code == 2
        assert ended.err == f"{kind} {name!r} {taken}; choose another name\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_left_alone(command, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    ended = command("plugins", "new", "calm", "--kind", "head", "--output", tmp_path)
    assert (ended.code, ended.err) == (
        2,
        f"{tmp_path}: is there already; choose another with --output\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kind", "foot"), "unknown kind 'foot'; there are: encoder, head, loss, dataset\n"),
        (
            ("--kind", "head", "--modality", "audio"),
            "--modality audio: only an encoder has one; leave it out\n",
        ),
        (
            ("--kind", "encoder", "--modality", "A B"),
            "modality 'A B': write it in lower case, such as image, text or audio\n",
        ),
    ],
)
def test_an_unknown_kind_or_modality_is_one_line(options, said, command):
    ended = command("plugins", "new", "calm", *options)
    assert ended.code == 2
    assert ended.err.startswith(said)
    assert len(ended.err.splitlines()) == 1
