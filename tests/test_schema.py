"""The JSON schema: what a spec may say, with everything installed, for editors and CI."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from contrastive.components import REGISTRIES
from contrastive.config.base import Config
from contrastive.config.json_schema import json_schema
from contrastive.config.registry import Registry
from contrastive.encoders import Encoder, encoders
from contrastive.heads import Identity, Linear, Mlp, heads
from contrastive.losses import InfoNCE, Sigmoid
from contrastive.pretrained import Pretrained
from contrastive.spec import ModelSpec, RunSpec, Tower

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


class Eye(Encoder):
    """Looks."""

    modality: ClassVar[str] = "image"

    size: int = 1
    """How big."""

    def build(self) -> Any:
        raise NotImplementedError


class Around(Eye):
    """An encoder around another."""

    base: Encoder | None = None
    """The one inside."""


class Ear(Eye):
    """Listens."""

    modality: ClassVar[str] = "text"


class Sauce(Config):
    """A kind that the library does not know."""

    kind: ClassVar[str] = "sauce"

    @abstractmethod
    def pour(self) -> None: ...


sauces = Registry(Sauce, group="tests.sauces")


@pytest.fixture(autouse=True)
def _encoders():
    encoders.register("eye")(Eye)
    encoders.register("around")(Around)
    encoders.register("ear")(Ear)


def validator(spec: type[Config] = RunSpec) -> Draft202012Validator:
    schema = json_schema(spec, *REGISTRIES)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def complaints(data: Any, spec: type[Config] = RunSpec) -> dict[str, str]:
    """Return what the schema says of data, by place."""
    errors = validator(spec).iter_errors(data)
    return {".".join(map(str, error.absolute_path)): error.message for error in errors}


MODEL = {
    "towers": {
        "image": {"encoder": {"type": "eye"}, "head": {"type": "linear"}},
        "text": {"encoder": {"type": "ear"}, "head": {"type": "mlp"}},
    },
    "loss": {"type": "infonce"},
}

EYES = st.recursive(st.builds(Eye), lambda eyes: st.builds(Around, base=st.none() | eyes))
HEADS = st.one_of(st.builds(Linear), st.builds(Mlp, dropout=st.floats(0, 0.9)), st.builds(Identity))
LOSSES = st.builds(InfoNCE, temperature=st.floats(0.01, 1)) | st.builds(Sigmoid)
MODELS = st.builds(
    lambda eye, ear, loss, dim: ModelSpec(
        embed_dim=dim,
        towers={"image": Tower(encoder=eye, head=ear), "text": Tower(encoder=Ear(), head=ear)},
        loss=loss,
    ),
    EYES,
    HEADS,
    LOSSES,
    st.integers(1, 4096),
)


@pytest.fixture
def model_schema():
    return validator(ModelSpec)


@given(model=MODELS)
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_model_that_can_be_built_fits_its_schema(model, model_schema):
    model_schema.validate(model.model_dump(mode="json"))
    model_schema.validate(model.model_dump(mode="json", exclude_defaults=True))


def test_a_run_with_all_its_defaults_fits_its_schema():
    data = {"type": "image-folder", "folder": "x"}
    run = RunSpec.model_validate({"model": MODEL, "data": data})
    assert complaints(run.model_dump(mode="json")) == {}
    assert complaints(json.loads(run.model_dump_json(exclude_unset=True))) == {}


def test_the_type_decides_which_fields_there_are():
    head = {"type": "linear", "bias": "maybe", "hidden": 3}
    data = MODEL | {"towers": {"image": {"encoder": {"type": "around", "sise": 1}, "head": head}}}
    said = complaints(data, ModelSpec)
    assert "'sise' was unexpected" in said["towers.image.encoder"]
    assert "'hidden' was unexpected" in said["towers.image.head"]
    assert "is not of type 'boolean'" in said["towers.image.head.bias"]


def test_a_component_without_a_type_or_of_an_unknown_one_is_refused():
    assert "'type' is a required property" in complaints(MODEL | {"loss": {}}, ModelSpec)["loss"]
    for name in ("eye", None, 3):
        assert "loss.type" in complaints(MODEL | {"loss": {"type": name}}, ModelSpec)


def test_what_is_no_mapping_is_one_mistake_and_not_one_of_each_component():
    [error] = validator(ModelSpec).iter_errors(MODEL | {"loss": None})
    assert error.message == "None is not of type 'object'"


def test_docstrings_are_shown_without_their_line_breaks():
    schema = json_schema(RunSpec, *REGISTRIES)
    about = schema["$defs"]["HFDualImage"]["description"]
    assert about.split("\n\n")[1] == (
        "Features are the model's own embeddings, so its head is `identity`; `hf-image` gives what "
        "comes before the projection."
    )
    assert schema["$defs"]["HFDualImage"]["properties"]["type"]["description"] == about
    assert about in choice_of(schema, encoders)["enumDescriptions"]


def test_an_import_path_is_a_type_too():
    path = f"{Eye.__module__}:Eye"
    assert complaints(MODEL | {"loss": {"type": path, "of": "your own"}}, ModelSpec) == {}


def test_a_component_with_two_names_fits_under_both(installed):
    installed("good")
    schema = validator(ModelSpec)
    for name in ("good-bottle", "good-flask"):
        tower = {"encoder": {"type": "eye"}, "head": {"type": name, "lambda": 3}}
        towers = MODEL["towers"] | {"image": tower}
        assert list(schema.iter_errors(MODEL | {"towers": towers})) == []


def choice_of(schema: Any, registry: Registry[Any]) -> Any:
    return schema["$defs"][registry.interface.kind]["properties"]["type"]["anyOf"][0]


def test_every_field_and_every_component_is_explained():
    schema = json_schema(RunSpec, *REGISTRIES)
    explained = {
        f"{model}.{name}": field.get("description")
        for model, about in schema["$defs"].items()
        for name, field in about.get("properties", {}).items()
        if name != "type"
    }
    assert [name for name, text in explained.items() if not text] == []
    assert explained["Around.base"] == "The one inside."
    assert explained["Tower.encoder"] == "Turns raw samples into features."
    for registry in REGISTRIES:
        choice = choice_of(schema, registry)
        assert choice["enum"] == list(registry)
        assert all(choice["enumDescriptions"])


def numbers_of(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every part of a schema that describes a number, with where it is."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield place, schema
        for key, part in schema.items():
            yield from numbers_of(part, f"{place}.{key}")
    elif isinstance(schema, list):
        for part in schema:
            yield from numbers_of(part, place)


def test_every_number_is_bounded_on_both_sides():
    configs = [registry[name] for registry in REGISTRIES for name in registry]
    ours = [config for config in configs if config.__module__.startswith("contrastive")]
    schemas = {str(config): config.model_json_schema() for config in ours}
    found = dict(numbers_of(schemas | {"run": RunSpec.model_json_schema()}, ""))
    assert len(found) > 50
    for sides in ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}):
        assert [place for place, part in found.items() if not sides & part.keys()] == []


def test_what_is_broken_is_left_out_and_spoils_nothing(installed):
    installed("good", "broken", "unfit", "twin_one", "twin_two", "shadowed")
    schema = json_schema(RunSpec, *REGISTRIES)
    Draft202012Validator.check_schema(schema)
    names = {*choice_of(schema, encoders)["enum"]}
    unusable = {
        name
        for name, (offer,) in encoders.installed.items()
        if offer.package in ("contrastive-broken", "contrastive-unfit")
    }
    assert len(unusable) == 14
    assert not names & unusable
    assert {"good-image", "good-text", "good-wrapper", "eye"} <= names
    assert "twin" not in choice_of(schema, heads)["enum"]
    assert schema["$defs"]["Linear"]["properties"]["bias"]["description"] == "Add a bias vector."


def test_a_kind_of_two_words_is_chosen_by_type_like_any_other():
    class Shelf(Config):
        model: Pretrained

    schema = validator(Shelf)
    good, bad = ({"model": {"type": kind, "name": "owner/clip"}} for kind in ("hf", "hg"))
    assert list(schema.iter_errors(good)) == []
    assert [error.message for error in schema.iter_errors(bad)] != []


def test_a_component_of_a_kind_without_a_menu_is_any_mapping():
    @encoders.register("spicy")
    class Spicy(Eye):
        sauce: Sauce

    schema = validator(ModelSpec)
    tower = {"encoder": {"type": "spicy", "sauce": {"type": "hot"}}, "head": {"type": "linear"}}
    data = MODEL | {"towers": MODEL["towers"] | {"image": tower}}
    assert list(schema.iter_errors(data)) == []
    tower["encoder"]["sauce"] = "hot"
    assert [error.message for error in schema.iter_errors(data)] == [
        "'hot' is not of type 'object'"
    ]


@pytest.mark.parametrize("of", ["run", "model"])
def test_the_command_writes_the_schema_to_a_file(of, process, command, tmp_path):
    call = process if of == "run" else command
    assert call("schema", "--of", of, "--output", tmp_path / "schema.json").code == 0
    schema = json.loads((tmp_path / "schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$ref"] == ("#/$defs/RunSpec" if of == "run" else "#/$defs/ModelSpec")


def test_an_unknown_kind_of_schema_is_refused(command):
    ended = command("schema", "--of", "tower")
    assert ended.code == 2
    assert ended.err == "--of 'tower': write run or model\n"
