"""``contrastive plugins``: what is there, what one takes, whether it is as it should be."""

from __future__ import annotations

import json
import sys

import pytest

from contrastive import testing
from contrastive.components import REGISTRIES
from contrastive.encoders import Encoder, encoders
from contrastive.heads import Head, heads
from contrastive.plugin_tools import listing

KINDS = ", ".join(registry.interface.kind for registry in REGISTRIES)
INTERFACES = ", ".join(registry.interface.__name__ for registry in REGISTRIES)
needs_kit = pytest.mark.skipif(
    not hasattr(testing, "examine_component"), reason="contrastive.testing has no kit"
)


def result(ended):
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


@pytest.mark.slow
def test_the_list_says_what_importing_a_plugin_costs_and_whether_torch_comes_along(
    installed, command, monkeypatch
):
    installed("good", "heavy", alone=True)
    known, real = {}, listing._try

    def once(module, *about):  # two lists of the same, and each module is imported in a process
        known[module] = known.get(module) or real(module, *about)
        return known[module]

    monkeypatch.setattr(listing, "_try", once)
    found = {
        entry["name"]: entry for entry in result(command("plugins", "--json", "--limit", "600"))
    }
    heavy, light, core = found["heavy"], found["good-bottle"], found["linear"]
    assert (heavy["torch"], light["torch"], core["torch"]) == (True, False, None)
    assert heavy["import_ms"] > 10 * light["import_ms"] > 0
    assert core["import_ms"] is None
    assert heavy["package"] == "contrastive-heavy"
    lines = command("plugins", "--limit", "600").out.splitlines()
    (line,) = [line for line in lines if "contrastive_heavy" in line]
    assert [cell.strip() for cell in line.split("│")][-2] == "yes"


@pytest.mark.slow
def test_listing_imports_no_plugin_into_this_process(installed, command):
    installed("good", alone=True)
    assert command("plugins").code == 0
    assert "contrastive_good" not in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize("group", ["contrastive.encoder", "contrastive_encoders"])
def test_a_group_that_nobody_reads_is_told_with_the_one_that_is_meant(
    site, command, monkeypatch, group
):
    folder = site("good")
    (points,) = folder.glob("*.dist-info/entry_points.txt")
    text = points.read_text()
    points.write_text(
        text.replace("contrastive.encoders", group) + "\n[contrastive.miners]\na = b:c"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("CONTRASTIVE_PLUGINS", "contrastive-good")
    (broken,) = [
        entry
        for entry in result(command("plugins", "--json", "--limit", "600"))
        if entry["state"] == "broken" and entry["package"] == "contrastive-good"
    ]
    assert broken["why"] == (
        f"nothing reads its entry points in {group}; did you mean contrastive.encoders?"
    )


@pytest.mark.slow
def test_every_component_that_is_listed_can_be_shown(command):
    for registry in REGISTRIES:
        for name, cls in registry.registered.items():
            about = result(command("plugins", "show", name, "--json"))
            assert (about["kind"], about["name"]) == (registry.interface.kind, name)
            assert about["about"], f"{name} is not explained"
            assert [field["name"] for field in about["fields"]] == list(cls.model_fields)
            assert all(field["help"] for field in about["fields"])


def test_a_field_has_its_type_default_and_help(command):
    fields = {f["name"]: f for f in result(command("plugins", "show", "mlp", "--json"))["fields"]}
    assert fields["hidden"] == {
        "name": "hidden",
        "type": "integer > 0 and <= 65536 or null",
        "default": "null",
        "help": "Width between the layers; embed_dim if not given.",
    }
    assert fields["dropout"]["type"] == "number >= 0 and < 1"
    assert fields["dropout"]["default"] == "0.1"
    shown = command("plugins", "show", "mlp").out
    assert "path: contrastive.heads:Mlp\n" in shown
    assert "Two linear layers with a GELU between them." in shown
    assert "integer > 0 and <= 65536 or null" in shown


@pytest.mark.slow
def test_required_fields_choices_components_and_aliases_are_said(installed, command):
    installed("good")
    wrapper = result(command("plugins", "show", "good-wrapper", "--json"))
    assert (wrapper["package"], wrapper["version"]) == ("contrastive-good", "1.2.0")
    assert wrapper["fields"][0] == {
        "name": "base",
        "type": "encoder",
        "default": "required",
        "help": "The one inside.",
    }
    (size,) = result(command("plugins", "show", "good-image", "--json"))["fields"]
    assert (size["type"], size["default"]) == ("s or b", '"b"')
    (neck,) = result(command("plugins", "show", "good-flask", "--json"))["fields"]
    assert (neck["name"], neck["type"]) == ("lambda", "integer > 0")


def test_a_component_without_a_schema_is_shown_by_its_annotations(installed, command):
    installed("unfit")
    (field,) = result(command("plugins", "show", "no-schema", "--json"))["fields"]
    assert field["type"].endswith("Callable[[float], float]")
    assert field["default"] == "<built-in function abs>"


def test_an_import_path_and_a_component_without_fields_are_shown(command):
    ended = command("plugins", "show", "contrastive.heads:Identity")
    assert ended.code == 0
    assert "name: identity\n" in ended.out
    assert "It has no fields." in ended.out


def test_a_name_of_two_kinds_is_told_apart_by_the_kind(command):
    class Both(Encoder):
        modality = "image"

        def build(self): ...

    class Two(Head):
        def build(self, in_dim, out_dim): ...

    encoders.register("both")(Both)
    heads.register("both")(Two)
    ended = command("plugins", "show", "both")
    assert ended.code == 2
    assert ended.err == (
        "'both' is the name of several components; write encoder/both or head/both\n"
    )
    assert result(command("plugins", "show", "head/both", "--json"))["kind"] == "head"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("infonse", "unknown component 'infonse'; did you mean 'infonce' (loss)?"),
        ("xyzzy", "unknown component 'xyzzy'; contrastive plugins lists all of them"),
        ("head/liner", "unknown head 'liner'; did you mean 'linear'?"),
        ("foot/linear", f"unknown kind 'foot'; there are: {KINDS}"),
        ("json:dumps", f"json:dumps is no component: it is a subclass of none of {INTERFACES}"),
    ],
)
def test_an_unknown_component_is_one_line_with_close_matches(name, said, command):
    ended = command("plugins", "show", name)
    assert (ended.code, ended.out, ended.err) == (2, "", f"{said}\n")


def test_a_broken_component_is_one_line(installed, command):
    installed("broken")
    ended = command("plugins", "show", "syntax")
    assert ended.code == 2
    assert ended.err.startswith(
        "encoder contrastive_broken.syntax:Dino (of contrastive-broken 0.9)"
    )
    assert len(ended.err.splitlines()) == 1


@pytest.mark.slow
@needs_kit
def test_a_check_that_passes_ends_with_0_and_one_that_fails_with_1(installed, command):
    passed = command("plugins", "check", "linear", "bias=false", "--json")
    outcomes = {row["outcome"] for row in result(passed)}
    assert "passed" in outcomes
    assert "failed" not in outcomes
    assert "passed" in command("plugins", "check", "linear").out
    installed("good")
    failed = command("plugins", "check", "good-bottle", "--json")
    assert failed.code == 1
    reasons = [row["why"] for row in json.loads(failed.out) if row["outcome"] == "failed"]
    assert reasons
    assert all(reasons)


@needs_kit
def test_samples_that_are_not_there_are_named(command, tmp_path):
    ended = command("plugins", "check", "cbow", "--samples", tmp_path / "nowhere")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"--samples {tmp_path / 'nowhere'}: no such file or folder\n"


@pytest.mark.slow
def test_samples_are_files_or_the_files_of_folders(command, tmp_path):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for color in ("red", "green", "blue"):
        Image.new("RGB", (40, 30), color).save(tmp_path / "pictures" / f"{color}.png")
    resnet = ("resnet", "width=8", "image_size=32")
    ended = command("plugins", "check", *resnet, "--samples", tmp_path / "pictures", "--json")
    assert {row["outcome"] for row in json.loads(ended.out)} <= {"passed", "skipped"}
    assert ended.code == 0


def test_fields_that_do_not_fit_are_told_before_anything_is_built(command):
    ended = command("plugins", "check", "mlp", "dropout=2", "hiden=4")
    assert ended.code == 2
    assert sorted(ended.err.splitlines()) == [
        "override 'dropout=2': dropout: Input should be less than 1",
        "override 'hiden=4': hiden: unknown field; did you mean 'hidden'?",
    ]
    missing = command("plugins", "check", "timm")
    assert (missing.code, missing.err) == (2, "timm: name: Field required\n")
