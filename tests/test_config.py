"""Configs: immutable, the same in Python and in data, and exact about what is wrong."""

from __future__ import annotations

import copy
import json
import operator
import pickle  # noqa: TID251 - the caller's own
import re
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, PositiveFloat

from contrastive.config import yaml_files as files
from contrastive.config.base import Config
from contrastive.config.registry import Registry
from contrastive.datasets import Lines
from contrastive.encoders import ResNet
from contrastive.errors import SpecError
from contrastive.heads import Linear
from contrastive.losses import InfoNCE
from contrastive.spec import Tower, TrainingSpec


class Shape(Config):
    kind: ClassVar[str] = "shape"

    @abstractmethod
    def area(self) -> float: ...


shapes = Registry(Shape, group="tests.shapes")


@shapes.register("circle")
class Circle(Shape):
    radius: PositiveFloat
    label: str = ""

    def area(self) -> float:
        return 3.14 * self.radius**2


@shapes.register("frame")
class Frame(Shape):
    inner: Shape | None = None
    width: Annotated[int, Field(alias="lambda")] = 1

    def area(self) -> float:
        return 0.0


@shapes.register("group")
class Group(Shape):
    parts: tuple[Shape, ...] = ()
    named: dict[str, Shape] = Field(default_factory=dict)

    def area(self) -> float:
        return sum(part.area() for part in self.parts)


class Drawing(Config):
    shape: Shape
    scale: float = 1.0


class Boxes(Config):
    numbers: list[list[int]] = Field(default_factory=lambda: [[1], [2]])
    by_name: dict[str, dict[str, int]] = Field(default_factory=lambda: {"a": {"b": 1}})
    among: tuple[dict[str, int], ...] = ({"a": 1},)
    letters: set[str] = Field(default_factory=lambda: {"a"})
    anything: Any = None


FINITE = st.floats(min_value=1e-300, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
CIRCLES = st.builds(Circle, radius=FINITE, label=TEXTS)
SHAPES = st.recursive(
    CIRCLES | st.just(Frame()),
    lambda inner: (
        st.builds(Frame, inner=st.none() | inner, width=st.integers())
        | st.builds(
            Group,
            parts=st.lists(inner, max_size=3),
            named=st.dictionaries(TEXTS, inner, max_size=3),
        )
    ),
    max_leaves=6,
)
DRAWINGS = st.builds(Drawing, shape=SHAPES, scale=FINITE)


def problems(data: Any, config: type[Config] = Drawing) -> dict[str, str]:
    """Return what is said of bad data, by place."""
    with pytest.raises(SpecError) as caught:
        config.model_validate(data)
    lines = [line.split(": ", 2) for line in str(caught.value).splitlines()]
    assert {name for name, _, _ in lines} == {config.__name__}
    return {place: problem for _, place, problem in lines}


def through_yaml(drawing: Drawing, folder: Any) -> Drawing:
    path = folder / "drawing.yaml"
    path.write_text(files.dump_spec(drawing), encoding="utf-8")
    return files.load_spec(Drawing, path)


ROUND_TRIPS = {
    "python": lambda d, _: Drawing.model_validate(d.model_dump()),
    "json": lambda d, _: Drawing.model_validate_json(d.model_dump_json()),
    "yaml": through_yaml,
    "no defaults": lambda d, _: Drawing.model_validate(d.model_dump(exclude_defaults=True)),
    "only what was set": lambda d, _: Drawing.model_validate(d.model_dump(exclude_unset=True)),
    "names in Python": lambda d, _: Drawing.model_validate(d.model_dump(by_alias=False)),
    "deepcopy": lambda d, _: copy.deepcopy(d),
}


@pytest.mark.parametrize("way", ROUND_TRIPS)
@settings(max_examples=40, deadline=None)
@given(drawing=DRAWINGS)
def test_every_round_trip_gives_an_equal_config_with_an_equal_hash(way, drawing, tmp_path_factory):
    again = ROUND_TRIPS[way](drawing, tmp_path_factory.getbasetemp())
    assert again == drawing
    assert hash(again) == hash(drawing)


def test_python_and_data_agree():
    data = {"shape": {"type": "group", "parts": [{"type": "circle", "radius": 2}]}}
    assert Drawing.model_validate(data) == Drawing(shape=Group(parts=[Circle(radius=2)]))


def test_equal_configs_hash_alike_whatever_the_order_of_their_names():
    first = Group(named={"a": Circle(radius=1), "b": Frame()})
    second = Group(named={"b": Frame(), "a": Circle(radius=1)})
    assert first == second
    assert len({first, second}) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"exclude_unset": True},
        {"exclude_defaults": True},
        {"exclude_none": True},
        {"by_alias": True},
        {"round_trip": True},
        {"serialize_as_any": True},
        {"exclude": {"shape": {"type"}}},
        {"include": {"shape"}},
        {"mode": "json"},
    ],
    ids=str,
)
def test_no_option_of_model_dump_loses_the_type(options):
    drawing = Drawing(shape=Group(parts=[Frame(inner=Circle(radius=1))], named={"a": Frame()}))
    shape = drawing.model_dump(**options)["shape"]
    assert shape["type"] == "group"
    assert shape["parts"][0]["type"] == "frame"
    assert shape["parts"][0]["inner"]["type"] == "circle"
    assert shape["named"]["a"]["type"] == "frame"


def test_an_interface_reads_its_components_by_itself():
    assert Shape.model_validate({"type": "circle", "radius": 1}) == Circle(radius=1)


def test_an_interface_is_not_a_component():
    with pytest.raises(TypeError, match="abstract"):
        Shape()


def test_a_config_cannot_be_changed():
    with pytest.raises(SpecError, match="radius cannot be changed; make another: model_copy"):
        Circle(radius=1).radius = 2


def test_an_unknown_field_suggests_the_one_that_was_meant_and_is_not_missing_it_too():
    assert problems({"shape": {"type": "circle", "raduis": 1}}) == {
        "shape.raduis": "unknown field; did you mean 'radius'?"
    }


def test_an_unknown_field_like_no_other_is_told_what_there_is():
    assert problems({"shape": {"type": "frame", "xyz": 1}}) == {
        "shape.xyz": "unknown field; there are: inner, lambda"
    }


def test_a_wrong_field_does_not_hide_what_is_missing_deeper():
    assert problems({"shapee": 1, "shape": {"type": "circle"}}) == {
        "shapee": "unknown field; did you mean 'shape'?",
        "shape.radius": "Field required",
    }


def test_all_mistakes_are_told_at_once_with_their_paths():
    parts = [{"type": "circle", "radius": -1}, {"type": "cirlce"}, {"radius": 1}, 3]
    found = problems({"shape": {"type": "group", "parts": parts}, "scale": "big"})
    assert "greater than 0" in found.pop("shape.parts.0.radius")
    assert "unable to parse" in found.pop("scale")
    assert found == {
        "shape.parts.1": "unknown shape 'cirlce'; did you mean 'circle'?",
        "shape.parts.2": "needs a 'type', one of: circle, frame, group",
        "shape.parts.3": "needs a 'type', one of: circle, frame, group",
    }


def test_a_component_of_another_kind_is_refused():
    assert problems({"encoder": InfoNCE(), "head": Linear()}, Tower) == {
        "encoder": "needs the kind encoder, not InfoNCE"
    }


@pytest.mark.parametrize(
    ("make", "fields", "told"),
    [
        (TrainingSpec, {"epochs": True}, "epochs: true is no number"),
        (TrainingSpec, {"warmup": False}, "warmup: false is no number"),
        (TrainingSpec, {"lr_factors": {"towers*": True}}, "lr_factors.towers*: true is no number"),
        (ResNet, {"layers": [1, True, 1, 1]}, "layers.1: true is no number"),
        (Lines, {"file": "s3://bucket/x"}, "file: s3://bucket/x is an address; only local files"),
        (Lines, {"file": Path("s3://bucket/x")}, "file: s3://bucket/x is an address; only local"),
    ],
)
def test_what_pydantic_takes_for_something_else_is_refused(make, fields, told):
    with pytest.raises(SpecError, match=f"^{make.__name__}: {re.escape(told)}"):
        make(**fields)


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
def test_numbers_are_finite_since_json_has_no_others(number):
    assert "finite" in problems({"shape": Frame(), "scale": float(number)})["scale"]


@given(drawing=DRAWINGS)
@settings(max_examples=40, deadline=None)
def test_what_is_dumped_is_strict_json(drawing):
    json.dumps(drawing.model_dump(mode="json"), allow_nan=False)


CHANGES = [
    lambda boxes: boxes.numbers.append([3]),
    lambda boxes: boxes.numbers[0].extend([3]),
    lambda boxes: boxes.numbers.sort(),
    lambda boxes: operator.setitem(boxes.numbers, 0, [3]),
    lambda boxes: operator.iadd(boxes.numbers, [[3]]),
    lambda boxes: boxes.by_name.update(b={}),
    lambda boxes: boxes.by_name["a"].pop("b"),
    lambda boxes: boxes.by_name.setdefault("b", {}),
    lambda boxes: operator.delitem(boxes.by_name, "a"),
    lambda boxes: operator.ior(boxes.by_name, {"b": {}}),
    lambda boxes: boxes.among[0].clear(),
    lambda boxes: boxes.letters.add("b"),
    lambda boxes: boxes.anything["x"].append(2),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_container_in_a_config_cannot_be_changed(change):
    boxes = Boxes(anything={"x": [1]})
    for each in (boxes, copy.deepcopy(boxes), pickle.loads(pickle.dumps(boxes))):
        with pytest.raises(
            SpecError, match=r"a (dict|list|set) in a spec cannot be changed; make "
        ):
            change(each)
        assert each == Boxes(anything={"x": [1]})


def test_containers_of_a_config_are_plain_ones_to_everybody_else():
    boxes = Boxes(anything={"x": [1]})
    assert boxes.by_name == {"a": {"b": 1}}
    assert boxes.numbers == [[1], [2]]
    assert boxes.letters == {"a"}
    assert json.loads(json.dumps(boxes.anything)) == {"x": [1]}
    assert boxes.by_name | {"b": {}} == {"a": {"b": 1}, "b": {}}
    dumped = boxes.model_dump()
    dumped["anything"]["x"].append(2)
    dumped["by_name"]["a"].clear()
    assert boxes == Boxes(anything={"x": [1]}) == Boxes.model_validate(boxes.model_dump())
    own = {"x": [1]}
    held = Boxes(anything=own)
    own["x"].append(2)
    assert held == boxes
