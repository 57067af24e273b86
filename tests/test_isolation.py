"""Broken packages hurt nobody who does not name them, and all packages can be switched off."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from contrastive import train
from contrastive.config.entry_points import NO_EXTENSIONS
from contrastive.encoders import encoders
from contrastive.errors import UnknownComponent
from tests.conftest import SCRIPT
from tests.toys import toy_dict

LEGIBLE = ("broken", "unfit", "loud", "twin_one", "twin_two", "shadowed", "hangs", "crashes")
"""A missing library, a syntax error, an exit, an exception, no such class, no such module, an
annotation that cannot be resolved; no encoder, unfinished, an own ``type``, no import path; one
that prints, two with one name, one with a name of the core, one that hangs, one that crashes."""
ILLEGIBLE = {
    "garbled": b"[contrastive.encoders]\nthis is no entry point\n",
    "binary": b"[contrastive.encoders]\nb\xff = b:\xff\n",
    "cut": b"no-section = contrastive_cut:Cut\n[contrastive.enc",
}
"""Entry points that cannot be read."""
SPEC = """\
towers:
  image: {encoder: {type: good-image}, head: {type: linear}}
  text: {encoder: {type: good-text, name: anna}, head: {type: mlp}}
loss: {type: infonce}
"""
COMMANDS = {
    "help": ("--help",),
    "validate": ("validate", "clip.yaml"),
    "validate to JSON": ("validate", "clip.yaml", "--json"),
    "plugins show": ("plugins", "show", "good-image"),
}


@pytest.fixture(scope="module")
def sites(site):
    """Return a folder with good packages, and one with bad ones, too."""
    bad = site("good", *LEGIBLE)
    for name, points in ILLEGIBLE.items():
        (bad / f"{name}-1.0.dist-info").mkdir()
        about = f"Metadata-Version: 2.4\nName: contrastive-{name}\nVersion: 1.0\n"
        (bad / f"{name}-1.0.dist-info" / "METADATA").write_text(about)
        (bad / f"{name}-1.0.dist-info" / "entry_points.txt").write_bytes(points)
    nameless = bad / "nameless-1.0.dist-info"  # without METADATA
    nameless.mkdir()
    (nameless / "entry_points.txt").write_text("[contrastive.encoders]\nnameless = nowhere:Dino\n")
    return site("good"), bad


@pytest.mark.slow
@pytest.mark.parametrize("args", COMMANDS.values(), ids=COMMANDS)
def test_a_command_that_names_no_broken_package_does_as_if_there_were_none(
    args, process, sites, tmp_path
):
    (tmp_path / "clip.yaml").write_text(SPEC)
    expected, ended = (process(*args, site=site, cwd=tmp_path) for site in sites)
    assert (ended.code, ended.err) == (expected.code, expected.err) == (0, "")
    assert ended.out == expected.out


@pytest.mark.slow
def test_a_module_of_ones_own_that_imports_torch_is_valid_beside_a_broken_package(
    process, sites, tmp_path
):
    (tmp_path / "clip.yaml").write_text(SPEC.replace("type: linear", "type: 'mine:Mine'"))
    scans = "if os.environ.get('TORCH_DEVICE_BACKEND_AUTOLOAD') != '0': entry_points()"  # as torch
    (tmp_path / "mine.py").write_text(
        f"import os\nfrom importlib.metadata import entry_points\n{scans}\n"
        "from contrastive.heads import Linear\nclass Mine(Linear):\n    'Mine.'\n"
    )
    ended = process("validate", "clip.yaml", site=sites[1], cwd=tmp_path)
    assert (ended.code, ended.out, ended.err) == (0, "clip.yaml: ok\n", "")


@pytest.mark.nightly  # by day, the list that it is made from
def test_the_schema_has_what_is_good_and_says_nothing_of_the_rest(process, sites):
    with_bad = process("schema", "--limit", "2", site=sites[1])
    alone = process("schema", site=sites[0])
    assert (with_bad.code, with_bad.err) == (0, "")
    more, less = (json.loads(ended.out)["$defs"] for ended in (with_bad, alone))
    assert more.keys() - less.keys() == {"Loud"}, "which is good but for its greeting"
    assert less.keys() <= more.keys()


@pytest.mark.slow
def test_the_list_has_every_package_the_bad_ones_with_the_reason(process, sites):
    ended = process("plugins", "--json", "--limit", "2", site=sites[1])
    assert (ended.code, ended.err) == (0, "")
    entries = json.loads(ended.out)
    found = {(entry["kind"], entry["name"], entry["path"]): entry for entry in entries}
    for entry in json.loads(process("plugins", "--json", site=sites[0]).out):
        same = found[entry["kind"], entry["name"], entry["path"]]
        assert same == entry | {"import_ms": same["import_ms"]}
    why = {entry["name"]: entry["why"] for entry in found.values() if entry["state"] == "broken"}
    assert why["hangs"] == "still importing after 2 s"
    assert why["crashes"] == "importing it ended the process with exit code 9"
    assert why["nameless"] == "ModuleNotFoundError: No module named 'nowhere'"
    unread = [entry for entry in entries if entry["kind"] == "?"]
    packages = {entry["package"] for entry in unread}
    assert {"contrastive-garbled", "contrastive-binary"} <= packages
    for entry in unread:
        assert entry["why"].startswith("its entry_points.txt cannot be read: ")


@pytest.mark.slow
def test_training_and_what_uses_the_model_do_as_if_there_were_none(
    sites, command, tmp_path, monkeypatch
):
    (tmp_path / "toy.yaml").write_text(json.dumps(toy_dict(tmp_path / "data", epochs=1)))
    (tmp_path / "texts.txt").write_text("a red circle\na blue square\n")
    monkeypatch.chdir(tmp_path)

    def results(folder):
        picture = min((tmp_path / "data" / "flickr30k-images").glob("*.jpg"))
        asked = ("classify", picture, "--classes", "circle,square")
        everything = [
            command("train", "toy.yaml", "--output", folder),
            *(
                command(*args, "--model", folder, "--json")
                for args in (("evaluate",), asked, ("search", picture, "--texts", "texts.txt"))
            ),
        ]
        for ended in everything:
            assert ended.code == 0, ended.err
            assert "contrastive_" not in ended.err
        return [ended.out.replace(folder, "RUN") for ended in everything]

    for name, value in NO_EXTENSIONS.items():  # which the command sets, undone after the test
        monkeypatch.setenv(name, value)
    expected = results("run-1")
    monkeypatch.syspath_prepend(sites[1])
    vars(encoders).pop("installed", None)
    assert results("run-2") == expected


@pytest.mark.slow
@pytest.mark.nightly  # by day in this process, by the test before
def test_training_in_a_process_of_its_own_gives_the_same_model(sites, process, tmp_path):
    (tmp_path / "toy.yaml").write_text(json.dumps(toy_dict(tmp_path / "data", epochs=1)))
    train(tmp_path / "toy.yaml", tmp_path / "without")
    ended = process("train", "toy.yaml", "--output", "bad", site=sites[1], cwd=tmp_path)
    assert ended.code == 0, ended.err
    without, bad = (tmp_path / run / "model" / "model.safetensors" for run in ("without", "bad"))
    assert without.read_bytes() == bad.read_bytes()


@pytest.mark.slow
def test_no_plugins_leaves_out_all_of_them(process, sites, tmp_path):
    (tmp_path / "clip.yaml").write_text(SPEC)
    ended = process("--no-plugins", "validate", "clip.yaml", site=sites[0], cwd=tmp_path)
    assert ended.code == 2
    assert ended.err.splitlines()[0] == (
        "clip.yaml:2: towers.image.encoder: unknown encoder 'good-image'; it is offered by "
        "contrastive-good 1.2.0, which --no-plugins (CONTRASTIVE_PLUGINS=none) leaves out"
    )
    listed = process("--no-plugins", "plugins", "--json", site=sites[1], cwd=tmp_path)
    assert {entry["package"] for entry in json.loads(listed.out)} == {"contrastive-kit"}
    assert listed.err == ""


@pytest.mark.parametrize("chosen", ["contrastive-good", "other, Contrastive_GOOD"])
def test_the_environment_says_which_packages_count(chosen, installed, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_PLUGINS", chosen)
    installed("good", "broken")
    assert set(encoders.installed) == {"good-image", "good-text", "good-wrapper"}
    with pytest.raises(UnknownComponent) as caught:
        encoders["syntax"]
    assert "offered by contrastive-broken 0.9, which CONTRASTIVE_PLUGINS=" in str(caught.value)


@pytest.mark.parametrize("chosen", ["", "none", " , "])
def test_an_environment_without_names_switches_all_off(chosen, installed, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_PLUGINS", chosen)
    installed("good")
    assert encoders.installed == {}


def test_import_paths_do_not_ask_which_packages_count(installed, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_PLUGINS", "none")
    installed("good")
    assert encoders["contrastive_good:GoodImage"].modality == "image"


@pytest.mark.slow
def test_the_list_says_which_chosen_package_offers_nothing(process, sites, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_PLUGINS", "contrastive-good,contrastive-gone")
    ended = process("plugins", "--json", site=sites[0])
    assert "good-image" in ended.out
    assert ended.err == (
        "CONTRASTIVE_PLUGINS names contrastive-gone, of which no component is installed\n"
    )


MANY = """\
from typing import Any
from contrastive.interface import Head
class Many(Head):
    def build(self, in_dim: int, out_dim: int) -> Any: ...
"""


def install_many(folder, count):
    """Install packages that offer something of each kind; the first has a head."""
    folder.mkdir()
    for number in range(count):
        name = f"contrastive_many_{number}"
        (folder / f"{name}.py").write_text(MANY)
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n")
        kinds = ("encoders", "heads", "losses", "datasets")
        points = "".join(f"[contrastive.{kind}]\nmany-{number} = {name}:Many\n" for kind in kinds)
        (info / "entry_points.txt").write_text(points)
    return folder


# A spec of built-in components is checked without the metadata of any package; a name that is not
# built in costs one reading, of its own group. Verbs that import torch see first, by one more,
# whether all are readable.
COUNTING = """\
import collections, runpy, sys
reads = collections.Counter()
def count(event, args):
    if event == "open" and "many" in str(args[0]) and str(args[0]).endswith("entry_points.txt"):
        reads[str(args[0])] += 1
sys.addaudithook(count)
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert not ended.code
print(len(reads), max(reads.values(), default=0), *(m for m in sys.modules if "many" in m))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "cost"), [("linear", "0 0"), ("many-0", "50 1 contrastive_many_0")]
)
def test_of_fifty_plugins_only_the_one_named_is_imported_and_metadata_are_read_for_it_alone(
    head, cost, tmp_path
):
    (tmp_path / "clip.yaml").write_text(f"""\
towers:
  image: {{encoder: {{type: vit}}, head: {{type: {head}}}}}
  text: {{encoder: {{type: cbow}}, head: {{type: linear}}}}
loss: {{type: infonce}}
""")
    folder = install_many(tmp_path / "site", 50)
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    ended = subprocess.run(
        [sys.executable, "-c", COUNTING, SCRIPT, "validate", tmp_path / "clip.yaml"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == cost
