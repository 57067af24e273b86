"""The registry: names stand for classes, nothing is imported early, nothing is replaced."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import pytest

from contrastive.config.base import Config
from contrastive.config.json_schema import json_schema
from contrastive.config.registry import Registry, names_only
from contrastive.encoders import Encoder, encoders
from contrastive.errors import PluginError, RenamedWarning, SpecError, UnknownComponent
from contrastive.heads import Head, Linear, heads
from contrastive.losses import InfoNCE
from contrastive.spec import ModelSpec


class Eye(Encoder):
    modality: ClassVar[str] = "image"
    size: int = 1

    def build(self) -> Any:
        raise NotImplementedError


class Ear(Eye):
    modality: ClassVar[str] = "text"


PATH = f"{Eye.__module__}:Eye"
MODEL = {
    "towers": {
        "image": {"encoder": {"type": "eye"}, "head": {"type": "linear"}},
        "text": {"encoder": {"type": "ear"}, "head": {"type": "mlp"}},
    },
    "loss": {"type": "infonce"},
}


def test_a_registered_class_goes_by_its_name():
    encoders.register("eye")(Eye)
    assert encoders["eye"] is Eye
    assert "eye" in list(encoders)
    assert Encoder.model_validate({"type": "eye", "size": 3}) == Eye(size=3)
    assert Eye().model_dump() == {"type": "eye", "size": 1}


def test_a_class_without_a_name_goes_by_its_import_path():
    assert Eye().model_dump()["type"] == PATH
    assert Encoder.model_validate(Eye(size=3).model_dump()) == Eye(size=3)


def test_a_name_cannot_be_taken_twice():
    encoders.register("eye")(Eye)
    with pytest.raises(ValueError, match=f"encoder 'eye' is already {PATH}"):
        encoders.register("eye")(Ear)
    assert encoders["eye"] is Eye


def test_a_reloaded_class_keeps_its_name():
    again = type("Eye", (Eye,), {"__module__": Eye.__module__, "__qualname__": "Eye"})
    encoders.register("eye")(Eye)
    assert encoders.register("eye")(again) is again
    assert encoders["eye"] is again


def test_an_unknown_name_suggests_the_closest():
    with pytest.raises(UnknownComponent, match=r"unknown head 'lineer'; did you mean 'linear'\?"):
        heads["lineer"]


def test_an_unknown_name_like_no_other_is_told_what_there_is():
    with pytest.raises(UnknownComponent, match=r"there are: identity, linear, mlp"):
        heads["xyz"]


def test_import_paths_are_refused_where_only_names_are_allowed():
    with names_only(), pytest.raises(UnknownComponent, match="only your own spec may use"):
        encoders[PATH]
    assert encoders[PATH] is Eye


def test_an_import_path_is_refused_before_anything_is_imported(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('the trap was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with names_only(), pytest.raises(SpecError, match="only your own spec may use"):
        Head.model_validate({"type": "trap:Trap"})
    assert "trap" not in sys.modules


def test_a_refusal_ends_with_its_block():
    with pytest.raises(ZeroDivisionError), names_only():
        1 / 0  # noqa: B018
    assert encoders[PATH] is Eye


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("os:system", "should be a subclass of Encoder, but is a builtin_function_or_method"),
        ("os:", "is not an import path; write package.module:Class"),
        ("my-encoder.py:Dino", "is not an import path; write package.module:Class"),
        (":Dino", "is not an import path"),
        ("no_such_module:Dino", "is broken: ModuleNotFoundError: No module named"),
        ("os:Dino", "is broken: AttributeError: module 'os' has no attribute 'Dino'"),
        ("contrastive.heads:Linear", "should be a subclass of Encoder, but is Linear"),
        ("contrastive.config.base:Config", "should be a subclass of Encoder, but is Config"),
        ("contrastive.encoders:Encoder", "does not define build, modality, as Encoder asks"),
    ],
)
def test_an_import_path_leads_to_a_finished_component_of_the_kind_or_is_refused(path, why):
    with pytest.raises(PluginError) as caught:
        encoders[path]
    assert path in str(caught.value)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_finished_components_of_the_kind_can_be_registered():
    class Unfinished(Encoder):
        modality: ClassVar[str] = "image"

    class Blind(Encoder):
        def build(self) -> Any:
            raise NotImplementedError

    class Typed(Eye):
        type: str = "typed"

    for cls, why in [
        (Linear, "should be a subclass of Encoder, but is Linear"),
        (Unfinished, "does not define build"),
        (Blind, "does not define modality"),
        (Typed, "has a field 'type'"),
    ]:
        with pytest.raises(PluginError, match=why):
            encoders.register("new")(cls)
    assert "new" not in encoders.registered


def test_a_spec_of_registered_names_reads_no_package_metadata(monkeypatch):
    encoders.register("eye")(Eye)
    encoders.register("ear")(Ear)
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda **_: pytest.fail("metadata were read")
    )
    spec = ModelSpec.model_validate(MODEL)
    assert spec.loss == InfoNCE()
    assert ModelSpec.model_validate(spec.model_dump()) == spec


def test_towers_hold_encoders_of_their_modality():
    encoders.register("eye")(Eye)
    encoders.register("ear")(Ear)
    towers = {"image": MODEL["towers"]["text"], "text": MODEL["towers"]["text"]}
    with pytest.raises(SpecError, match=r"towers.image: encoder 'ear' encodes text"):
        ModelSpec.model_validate(MODEL | {"towers": towers})


def test_an_old_name_works_is_not_offered_and_is_deprecated_in_the_schema():
    class Shape(Config):
        kind: ClassVar[str] = "shape"

    shapes = Registry(Shape, group="contrastive.shapes")

    @shapes.register("circle", formerly={"round": "0.1"})
    class Circle(Shape):
        radius: int = 1

    assert list(shapes) == ["circle"]
    with pytest.warns(RenamedWarning, match="shape 'round' is now 'circle'"):
        assert shapes["round"] is Circle
    choice = json_schema(Circle, shapes)["$defs"]["shape"]
    names, *others = choice["properties"]["type"]["anyOf"]
    assert names["enum"] == ["circle"]
    (old,) = [other for other in others if other.get("deprecated")]
    assert (old["const"], old["deprecationMessage"]) == ("round", "Now circle.")
    of = {one["if"]["properties"]["type"]["const"]: one["then"] for one in choice["allOf"]}
    assert of["round"] == of["circle"]
