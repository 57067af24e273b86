"""Packages of others: found by name, imported when named, harmful to nobody else.

The packages lie in ``tests/packages``; the processes find them as they find what pip installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict

import pytest

from contrastive.components import REGISTRIES
from contrastive.config import yaml_files as files
from contrastive.encoders import Encoder, encoders
from contrastive.errors import PluginError, SpecError, UnknownComponent
from contrastive.heads import Head, Linear, heads
from contrastive.plugin_tools.listing import listing
from contrastive.spec import ModelSpec
from tests.conftest import PACKAGES, SCRIPT

SPEC = """\
towers:
  image:
    encoder: {type: %s}
    head: {type: %s}
  text:
    encoder: {type: good-text, name: anna}
    head: {type: mlp}
loss: {type: infonce}
"""
BROKEN = {
    "needs-a-library": "ModuleNotFoundError: No module named 'a_library_that_is_not_installed'",
    "syntax": "SyntaxError: 'return' outside function (syntax.py, line 1)",
    "exits": "SystemExit: 3",
    "raises": r"KeyError: 'several\nlines'",
    "no-such-class": "AttributeError: module 'contrastive_broken' has no attribute 'Dino'",
    "no-such-module": "ModuleNotFoundError: No module named 'contrastive_broken.nowhere'",
    "unresolvable": "PydanticUndefinedAnnotation: name 'PositiveInt' is not defined",
}
UNFIT = {
    "a-head": "should be a subclass of Encoder, but is AHead",
    "a-function": "should be a subclass of Encoder, but is a function",
    "unfinished": "does not define build, as Encoder asks",
    "no-modality": "does not define modality, as Encoder asks",
    "own-type": "has a field 'type', the key that chooses a component; rename it",
    "no-path": "is not an import path; write package.module:Class",
}


@pytest.fixture
def spec(tmp_path):
    """Write a spec with the encoder and head of these names."""

    def write(encoder="good-image", head="linear"):
        path = tmp_path / "clip.yaml"
        path.write_text(SPEC % (encoder, head))
        return path

    return write


def states():
    """Return state and reason of every component, by package and name."""
    found = defaultdict(dict)
    for entry in listing(*REGISTRIES):
        found[entry.package][entry.name] = (entry.state, entry.why)
    return found


@pytest.mark.parametrize(("name", "why"), BROKEN.items())
def test_naming_a_broken_package_gives_one_line_and_exit_code_2(
    name, why, command, installed, spec
):
    installed("good", "broken")
    ended = command("validate", spec(encoder=name))
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert f"encoder {encoders.installed[name][0].path}" in ended.err
    assert "(of contrastive-broken 0.9) is broken: " in ended.err
    assert why in ended.err


@pytest.mark.parametrize(("name", "why"), UNFIT.items())
def test_naming_what_is_no_finished_encoder_gives_one_line_and_exit_code_2(
    name, why, command, installed, spec
):
    installed("good", "unfit")
    ended = command("validate", spec(encoder=name))
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert f"{encoders.installed[name][0].path} (of contrastive-unfit 2.0)" in ended.err
    assert why in ended.err


@pytest.mark.slow
def test_a_package_that_exits_when_imported_does_not_end_our_process(process, site, spec):
    ended = process("validate", spec(encoder="exits"), site=site("good", "broken"))
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "encoder contrastive_broken.exits:Dino (of contrastive-broken 0.9) is broken: "
        "SystemExit: 3 (written for contrastive-kit >=0.0.7; this is 0.1.0, interface 2)"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("args", [("plugins", "--json"), ("schema",)], ids=lambda args: args[0])
def test_a_package_that_prints_when_imported_leaves_stdout_to_the_results(args, command, installed):
    installed("loud", alone=True)
    ended = command(*args)
    assert "loud" in json.dumps(json.loads(ended.out))
    assert ended.err == ""


@pytest.mark.parametrize(
    ("package", "name", "said"),
    [
        ("broken", "raises", "(written for contrastive-kit >=0.0.7; this is 0.1.0, interface 2)"),
        ("unfit", "unfinished", "(written for contrastive-kit; this is 0.1.0, interface 2)"),
    ],
)
def test_an_error_says_which_release_the_package_was_written_for(package, name, said, installed):
    installed(package)
    with pytest.raises(PluginError) as caught:
        encoders[name]
    assert str(caught.value).endswith(said)


def test_a_user_who_interrupts_an_import_ends_it(installed, monkeypatch):
    installed("broken")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.metadata.EntryPoint.load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        encoders["exits"]


def test_a_plugin_error_keeps_its_cause(installed):
    installed("broken")
    with pytest.raises(PluginError) as caught:
        encoders["syntax"]
    assert isinstance(caught.value.__cause__, SyntaxError)


@pytest.mark.slow
def test_the_listing_says_of_each_component_how_it_fares(installed):
    installed("good", "broken", "unfit", "twin_one", "twin_two", "shadowed", alone=True)
    found = states()
    assert set(found["contrastive-kit"].values()) == {("ok", "")}
    assert set(found["contrastive-good"].values()) == {("ok", "")}
    for name, (state, why) in found["contrastive-broken"].items():
        assert state == "broken"
        assert BROKEN[name] in why
    for name, (state, why) in found["contrastive-unfit"].items():
        assert state == ("ok" if name == "no-schema" else "broken")
        assert UNFIT.get(name, "") in why
    assert found["contrastive-twin-one"] == {
        "twin": ("ambiguous", "write contrastive_twin_one:Twin")
    }
    assert found["contrastive-shadowed"] == {
        "linear": ("shadowed", "write contrastive_shadowed:Linear")
    }


def test_an_installed_component_goes_by_its_name_though_it_is_re_exported(installed):
    installed("good")
    from contrastive_good import GoodImage

    assert GoodImage.__module__ == "contrastive_good.towers"
    assert GoodImage(size="s").model_dump() == {"type": "good-image", "size": "s"}
    assert encoders.package_of(GoodImage) == ("contrastive-good", "1.2.0")


def test_a_component_with_two_names_loads_by_both(installed):
    installed("good")
    for name in ("good-bottle", "good-flask"):
        bottle = Head.model_validate({"type": name, "lambda": 3})
        assert Head.model_validate(bottle.model_dump()) == bottle


def test_a_mistake_in_a_component_within_a_component_has_its_whole_path(installed, command, spec):
    installed("good")
    inner = "good-wrapper, base: {type: good-wrapper, base: {type: good-image, sise: s}}"
    path = spec(encoder=inner)
    ended = command("validate", path)
    where = "towers.image.encoder.base.base.sise"
    assert ended.err == f"{path}:3: {where}: unknown field; did you mean 'size'?\n"


def test_two_packages_with_one_name_are_an_error_only_when_it_is_used(installed):
    installed("good", "twin_one", "twin_two")
    assert Encoder.model_validate({"type": "good-image"})
    with pytest.raises(UnknownComponent, match="is offered more than once") as caught:
        heads["twin"]
    for package in ("one", "two"):
        offer = f"contrastive_twin_{package}:Twin (of contrastive-twin-{package} 1.0)"
        assert offer in str(caught.value)
        twin = heads[f"contrastive_twin_{package}:Twin"]
        assert twin().model_dump() == {"type": f"contrastive_twin_{package}:Twin"}


def test_one_of_two_packages_with_one_name_is_enough(installed):
    installed("twin_one")
    assert heads["twin"]().model_dump() == {"type": "twin"}


def test_the_core_wins_its_names_and_the_shadowed_keep_their_paths(installed):
    installed("shadowed")
    assert heads["linear"] is Linear
    shadowed = heads["contrastive_shadowed:Linear"]
    assert shadowed().model_dump() == {"type": "contrastive_shadowed:Linear"}
    assert Head.model_validate(shadowed().model_dump()) == shadowed()


@pytest.mark.slow
def test_a_class_in_the_current_folder_is_named_by_its_path(process, site, spec):
    path = spec(encoder="mine:GoodImage")
    shutil.copy(PACKAGES / "good" / "contrastive_good" / "towers.py", path.parent / "mine.py")
    ended = process("validate", path, "--json", site=site("good"), cwd=path.parent)
    assert ended.err == ""
    assert json.loads(ended.out)["towers"]["image"]["encoder"] == {
        "type": "mine:GoodImage",
        "size": "b",
    }


def test_a_spec_of_somebody_else_cannot_name_import_paths_but_can_name_packages(installed, spec):
    installed("good")
    assert files.load_spec(ModelSpec, spec(), trusted=False) == files.load_spec(ModelSpec, spec())
    with pytest.raises(SpecError, match=r"clip.yaml:3: .*only your own spec may use"):
        files.load_spec(ModelSpec, spec(encoder="contrastive_good:GoodImage"), trusted=False)


@pytest.mark.slow
def test_a_leftover_of_an_uninstalled_package_is_harmless(process, site, spec):
    folder = site("good")
    (folder / "leftover-1.0.dist-info").mkdir()
    points = "[contrastive.encoders]\nleftover = leftover:Gone\n"
    (folder / "leftover-1.0.dist-info" / "entry_points.txt").write_text(points)
    assert process("validate", spec(), site=folder).code == 0
    ended = process("validate", spec(encoder="leftover"), site=folder)
    assert ended.code == 2
    assert "leftover:Gone" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.slow
def test_a_package_that_imports_torch_costs_only_those_who_name_it(site, spec):
    folder = site("good", "heavy")
    for head in ("linear", "heavy"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", SCRIPT, "validate", spec(head=head)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(folder)},
            check=True,
        )
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert ("torch" in imported) == (head == "heavy")


@pytest.mark.slow
def test_pip_installs_such_a_package(process, spec, tmp_path):
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", tmp_path / "site"]
    subprocess.run([*pip, PACKAGES / "good"], check=True)
    assert process("validate", spec(), site=tmp_path / "site").code == 0
