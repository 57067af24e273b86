"""Spec objects made in Python are checked like files, however they are made."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - the caller's own
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import nn

from contrastive import ModelSpec, RunSpec, Tower, TrainingSpec, build_model, load_spec, train
from contrastive.encoders import CBOW, ResNet
from contrastive.errors import SpecError
from contrastive.heads import Linear
from contrastive.losses import InfoNCE
from tests.toys import toy_dict, toy_spec


@pytest.fixture
def spec(tmp_path):
    return toy_spec(tmp_path / "data")


def test_a_copy_with_other_fields_is_checked(spec):
    changed = spec.model_copy(update={"training": TrainingSpec(epochs=7)})
    assert changed.training.epochs == 7
    assert changed.model == spec.model
    assert spec.training.epochs == 2
    with pytest.raises(SpecError) as error:
        spec.training.model_copy(update={"epoch": 1, "batch_sise": 64, "lr": -1e-2})
    assert str(error.value).splitlines() == [
        "TrainingSpec: lr: Input should be greater than 0",
        "TrainingSpec: epoch: unknown field; did you mean 'epochs'?",
        "TrainingSpec: batch_sise: unknown field; did you mean 'batch_size'?",
    ]
    with pytest.raises(SpecError, match="Tower: frozen: Input should be 'none', 'encoder' or 'al"):
        spec.model.towers["image"].model_copy(update={"frozen": False})


def test_a_copy_without_changes_is_the_same(spec):
    assert spec.model_copy() == spec
    assert spec.model_copy(deep=True) == spec
    assert spec.model_copy(update={}) == spec


def test_what_an_object_keeps_for_itself_is_no_field(spec):
    spec.training._memo = 7
    assert spec.training.check_again() == spec.training
    assert spec.with_("training.epochs=5").training.epochs == 5
    assert spec.training.model_copy(update=[("epochs", 5)]).epochs == 5


def test_an_empty_path_is_not_the_working_directory(spec):
    with pytest.raises(SpecError, match="override 'output=\"\"': output: is empty; give a path"):
        spec.with_('output=""')
    assert spec.with_("output=.").output == Path()


def test_a_dict_in_a_copy_is_read_as_the_section(spec):
    assert spec.model_copy(update={"training": {"epochs": 1}}).training == TrainingSpec(epochs=1)


def test_overrides_of_the_command_line_make_another_spec(spec):
    changed = spec.with_("training.epochs=5", "model.towers.text.encoder.width=32", "output=runs/x")
    assert changed.training.epochs == 5
    assert changed.model.towers["text"].encoder == CBOW(width=32, buckets=512)
    assert str(changed.output) == "runs/x"
    assert spec.with_() == spec
    with pytest.raises(SpecError, match=r"override 'training.epoch=5': training.epoch: unknown f"):
        spec.with_("training.epoch=5")
    with pytest.raises(SpecError, match=r"write it as a\.b=value"):
        spec.with_("training.epochs")
    assert spec.training.with_("lr=1e-4").lr == 1e-4


def test_a_mistake_in_an_object_is_one_line(spec):
    cases = {
        lambda: Tower(encoder=CBOW(), head=Linear(), frozen=True): "Tower: frozen: Input should",
        lambda: CBOW(widht=3): "CBOW: widht: unknown field; did you mean 'width'?",
        lambda: RunSpec(model=spec.model): "RunSpec: data: Field required",
        lambda: ModelSpec(towers={"image": Tower(encoder=CBOW(), head=Linear())}, loss=InfoNCE()): (
            "ModelSpec: towers.image: encoder 'cbow' encodes text, not image"
        ),
        lambda: Tower(encoder=Linear(), head=Linear()): "Tower: encoder: needs the kind encoder",
    }
    for make, said in cases.items():
        with pytest.raises(SpecError) as error:
            make()
        assert str(error.value).startswith(said)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda spec: setattr(spec, "output", "x"),
            "RunSpec: output cannot be changed; make anoth",
        ),
        (
            lambda spec: setattr(spec, "modle", 1),
            "RunSpec: modle: unknown field; did you mean 'mod",
        ),
        (lambda spec: delattr(spec, "output"), "RunSpec: output cannot be changed; make another"),
        (
            lambda spec: spec.model.towers.pop("text"),
            "a dict in a spec cannot be changed; make ano",
        ),
        (lambda spec: spec.training.lr_factors.update(x=-1), "a dict in a spec cannot be changed"),
    ],
)
def test_a_spec_is_not_changed_in_place(change, said, spec):
    before = spec.model_copy(deep=True)
    with pytest.raises(SpecError) as error:
        change(spec)
    assert str(error.value).startswith(said)
    assert spec == before


OVERRIDES = [
    "model.loss.type=sigmoid",
    "model.loss={type: dcl}",
    "model.towers.text.encoder.type=text-transformer",
    "model.towers.image.encoder={type: resnet}",
    "model.towers.image.lora.rank=3",
    "model.towers.image.unfrozen.0=net.*",
    "model.pairs.0.1=text",
    "model.pairs.1=[text, text]",
    "data.type=class-folders",
    "training.lr_factors.x=2",
    "training.lr_factors={}",
    "training.epoch=5",
    "training={}",
    "evaluation.templates=imagenet",
    "output=",
    "output",
]


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_does_in_python_what_it_does_on_the_command_line(override, tmp_path):
    fields = toy_dict(tmp_path / "data", images=4, lr_factors={"towers.*": 2})
    fields["model"]["pairs"] = [["image", "text"]]
    (tmp_path / "run.yaml").write_text(json.dumps(fields))
    spec = load_spec(tmp_path / "run.yaml")
    found = []
    for make in (
        lambda: spec.with_(override),
        lambda: load_spec(tmp_path / "run.yaml", overrides=[override]),
    ):
        try:
            found.append(make())
        except SpecError as error:
            said = str(error).replace(f"{tmp_path / 'run.yaml'}:1", "RunSpec")
            found.append(said)
    assert found[0] == found[1]


def test_what_is_no_override_is_told_so(spec):
    with pytest.raises(SpecError, match=r"overrides: a list with .* was given; give strings"):
        spec.with_({"training": 1})
    with pytest.raises(SpecError, match=r"RunSpec: training\.lr: Input should be greater than 0"):
        unchecked(spec)["training.lr: Input should be greater than 0"].with_("training.epochs=1")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: TrainingSpec.model_validate({"lr": -1}),
            "TrainingSpec: lr: Input should be great",
        ),
        (lambda: TrainingSpec.model_validate_json('{"lr": -1}'), "TrainingSpec: lr: Input should"),
        (lambda: TrainingSpec.model_validate_json("{"), "TrainingSpec: Invalid JSON: EOF while"),
        (lambda: TrainingSpec.model_validate_strings({"lr": "-1"}), "TrainingSpec: lr: Input shou"),
        (
            lambda: RunSpec.model_validate(TrainingSpec()),
            "RunSpec: needs RunSpec, not TrainingSpec",
        ),
        (
            lambda: RunSpec.model_validate({"towers": {}}),
            "RunSpec: describes a model, without data",
        ),
        (
            lambda: ModelSpec.model_validate({"model": {}}),
            "ModelSpec: describes a run; give what is",
        ),
        (
            lambda: ModelSpec(towers={"text": CBOW()}, loss=InfoNCE()),
            "ModelSpec: towers.text: needs",
        ),
        (
            lambda: Tower(encoder=CBOW, head=Linear()),
            "Tower: encoder: needs the kind encoder, not a ",
        ),
        (
            lambda: Tower(encoder="cbow", head=Linear()),
            "Tower: encoder: needs a 'type'; write {type",
        ),
        (
            lambda: Tower(encoder=nn.Linear(2, 2), head=Linear()),
            "Tower: encoder: needs the kind encoder, not an nn.Module (Linear); ContrastiveModel",
        ),
        (
            lambda: load_spec(TrainingSpec()),
            "load_spec: TrainingSpec does not fit; write load_spec(",
        ),
        (
            lambda: load_spec("a.yaml", ["a=b"]),
            "load_spec: str does not fit; write load_spec(path)",
        ),
    ],
)
def test_every_way_to_make_a_spec_tells_a_mistake_in_one_line(make, said):
    with pytest.raises(SpecError) as error:
        make()
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_inside_pydantics_own_models_a_mistake_is_pydantics():
    class Settings(BaseModel):
        training: TrainingSpec

    for make in (
        lambda: Settings.model_validate({"training": {"lr": -1}}),
        lambda: TypeAdapter(dict[str, TrainingSpec]).validate_python({"training": {"lr": -1}}),
    ):
        with pytest.raises(ValidationError) as error:
            make()
        assert [e["loc"] for e in error.value.errors()] == [("training", "lr")]


SPEC = "a RunSpec, a ModelSpec, a dict, or the path of a YAML file"


def unchecked(spec):
    """Specs that pydantic makes without looking, by what is said of each."""
    towers = {"text": Tower.model_construct(encoder=CBOW(), head=Linear(), frozen=False)}
    model = ModelSpec.model_construct(embed_dim=8, towers=towers, loss=InfoNCE())
    training = BaseModel.model_copy(spec.training, update={"batch_sise": 64})
    changed, put_in = spec.model_copy(deep=True), spec.model_copy(deep=True)
    object.__setattr__(changed.model.towers["text"].encoder, "width", -1)
    dict.update(put_in.model.towers, text=Tower.model_construct(encoder=CBOW()))
    return {
        "model.towers.text.frozen: Input should be": RunSpec.model_construct(
            model=model, data=spec.data
        ),
        "training.batch_sise: unknown field; did you mean 'batch_size'": spec.model_copy(
            update={"training": training}
        ),
        "training.lr: Input should be greater than 0": RunSpec.model_construct(
            model=spec.model, data=spec.data, training=TrainingSpec.model_construct(lr=-1.0)
        ),
        "model.towers.text.encoder.width: Input should be": pickle.loads(pickle.dumps(changed)),
        "model.towers.text.head: Field required": put_in,
        "data: Field required": RunSpec.model_construct(model=spec.model),
    }


def test_an_unchecked_object_is_refused_before_the_first_step(spec, tmp_path):
    for said, bad in unchecked(spec).items():
        with pytest.raises(SpecError, match=f"^RunSpec: {said}"):
            train(bad, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(SpecError, match="frozen"):
        build_model(unchecked(spec)["model.towers.text.frozen: Input should be"].model)


@pytest.mark.slow
def test_training_takes_what_building_takes(tmp_path, monkeypatch):
    fields = toy_dict(tmp_path / "data", epochs=1)
    (tmp_path / "clip.yaml").write_text(json.dumps(fields))
    monkeypatch.chdir(tmp_path)
    by_path = train("clip.yaml")
    assert (tmp_path / "runs" / "clip" / "model").is_dir()
    by_dict = train(fields, tmp_path / "b")
    by_spec = train(RunSpec.model_validate(fields), tmp_path / "c")
    states = [model.state_dict() for model in (by_path, by_dict, by_spec)]
    for name, tensor in states[0].items():
        assert all(tensor.equal(state[name]) for state in states[1:])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (7, f"needs {SPEC}, not int"),
        (ResNet(), f"needs {SPEC}, not ResNet"),
        (RunSpec, f"needs {SPEC}, not a class; write RunSpec(...)"),
        (
            nn.Linear(2, 2),
            f"needs {SPEC}, not an nn.Module (Linear); ContrastiveModel.from_modules",
        ),
        ({1: 2, "data": 3}, "the spec: model: Field required"),
        ({"model": TrainingSpec()}, "the spec: model: needs ModelSpec, not TrainingSpec"),
        ({"model": {}, "data": "pictures"}, "the spec: model.towers: Field required"),
        ({"towers": {}}, "the spec: towers: "),
        ("missing.yaml", "missing.yaml"),
    ],
)
def test_what_is_no_spec_is_refused_in_one_line(given, said, tmp_path):
    with pytest.raises(SpecError) as error:
        train(given, tmp_path / "run")
    assert str(error.value).splitlines()[0].startswith(said)


def test_a_model_alone_cannot_be_trained(spec, tmp_path):
    with pytest.raises(SpecError, match="describes a model, without data to train on"):
        train(spec.model, tmp_path / "run")
