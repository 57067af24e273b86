"""Spec objects made in Python are checked like files, however they are made."""

from __future__ import annotations

import copy
import json
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from pydantic import BaseModel, ValidationError

from contrastive import ModelSpec, RunSpec, Tower, TrainingSpec, build_model, load_spec, train
from contrastive.encoders import CBOW, ResNet
from contrastive.errors import SpecError
from contrastive.heads import Linear
from contrastive.losses import InfoNCE
from contrastive.spec import Section
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


def test_a_field_is_not_changed_in_place(spec):
    with pytest.raises(SpecError, match="RunSpec: output cannot be changed; make another"):
        spec.output = "runs/y"


def unchecked(spec):
    """Specs that pydantic makes without looking, as its ``model_construct`` does."""
    towers = {"text": Tower.model_construct(encoder=CBOW(), head=Linear(), frozen=False)}
    model = ModelSpec.model_construct(embed_dim=8, towers=towers, loss=InfoNCE())
    training = BaseModel.model_copy(spec.training, update={"batch_sise": 64})
    return {
        "frozen: Input should be": RunSpec.model_construct(
            model=model, data=spec.data, training=TrainingSpec()
        ),
        "batch_sise: unknown field": RunSpec.model_construct(
            model=spec.model, data=spec.data, training=training
        ),
        "lr: Input should be greater than 0": RunSpec.model_construct(
            model=spec.model, data=spec.data, training=TrainingSpec.model_construct(lr=-1.0)
        ),
    }


def test_an_unchecked_object_is_refused_before_the_first_step(spec, tmp_path):
    for said, bad in unchecked(spec).items():
        with pytest.raises(SpecError, match=said):
            train(bad, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(SpecError, match="frozen"):
        build_model(unchecked(spec)["frozen: Input should be"])


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
        (7, "a int is no spec; give a RunSpec, a ModelSpec, a dict, or the path of a YAML file"),
        (ResNet(), "a ResNet is no spec"),
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


def test_nothing_inside_a_spec_can_be_changed(spec):
    training = TrainingSpec(lr_factors={"*": 2.0})
    for change in (
        lambda: spec.model.towers.pop("text"),
        lambda: spec.model.towers.update(text=None),
        lambda: spec.model.towers.__setitem__("text", None),
        training.lr_factors.clear,
        lambda: training.lr_factors.setdefault("a", 3.0),
        lambda: TrainingSpec().lr_factors.update(a=1.0),
        lambda: Basket(eggs=[1, [2]]).eggs.append(3),
        lambda: Basket(eggs=[1, [2]]).eggs[1].append(3),
        lambda: delattr(training, "lr"),
    ):
        with pytest.raises(SpecError, match="cannot be"):
            change()
    with pytest.raises(SpecError, match="a dict of a spec cannot be changed"):
        training.lr_factors |= {"a": 1.0}
    assert training.lr_factors | {"a": 1.0} == {"*": 2.0, "a": 1.0}
    assert type(training.lr_factors | {}) is dict
    assert list(spec.model.towers) == ["image", "text"]


class Basket(Section):
    """A section whose lists hold lists."""

    eggs: list[int | list[int]]


def test_a_spec_is_copied_pickled_and_dumped_with_what_is_inside(spec):
    for same in (copy.deepcopy(spec), ForkingPickler.loads(ForkingPickler.dumps(spec))):
        assert same == spec
        assert hash(same) == hash(spec)
        with pytest.raises(SpecError, match="cannot be changed"):
            same.model.towers.clear()
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert RunSpec.model_validate(spec.model_dump()) == spec
    assert copy.copy(spec.model.towers) == spec.model.towers
    basket = Basket(eggs=[1, [2]])
    assert basket.model_dump() == {"eggs": [1, [2]]}
    assert json.loads(basket.model_dump_json()) == {"eggs": [1, [2]]}


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.loss.type=sigmoid"],
        ["model.loss={type: dcl}", "training.lr=1e-4"],
        ["model.towers.text.head.type=mlp"],
        ["evaluation.split=null", "training={epochs: 9}"],
        ["data={type: image-folder, folder: x}"],
    ],
)
def test_overrides_do_the_same_to_an_object_and_to_its_file(spec, tmp_path, overrides):
    path = tmp_path / "toy.yaml"
    path.write_text(json.dumps(toy_dict(tmp_path / "data")))
    assert load_spec(path) == spec
    assert spec.with_(*overrides) == load_spec(path, overrides=overrides)


def test_an_object_that_nobody_checked_is_told_with_the_place_of_each_mistake(spec, tmp_path):
    encoder = CBOW.model_construct(width="wide", buckets=512)
    tower = Tower.model_construct(encoder=encoder, head=Linear(), frozen="some")
    training = copy.deepcopy(spec.training)
    training.__dict__["lr"] = -1.0
    training.__dict__["split"] = 7  # a field that was never set
    model = spec.model.model_copy()
    model.__dict__["towers"] = {**spec.model.towers, "text": tower}
    odd = RunSpec.model_construct(model=model, data=spec.data, training=training)
    with pytest.raises(SpecError) as told:
        train(odd, tmp_path / "run")
    assert [line.partition(": Input")[0] for line in str(told.value).splitlines()] == [
        "RunSpec: model.towers.text.encoder.width",
        "RunSpec: training.lr",
        "RunSpec: training.split",
    ]
    assert not (tmp_path / "run").exists()


def test_mistakes_of_every_constructor_are_lines(spec):
    wrong = {"epochs": -1, "lr": 0}
    for make in (
        lambda: TrainingSpec(**wrong),
        lambda: TrainingSpec.model_validate(wrong),
        lambda: TrainingSpec.model_validate_json(json.dumps(wrong)),
    ):
        with pytest.raises(SpecError) as told:
            make()
        assert str(told.value).splitlines() == [
            "TrainingSpec: epochs: Input should be greater than or equal to 0",
            "TrainingSpec: lr: Input should be greater than 0",
        ]

    class Theirs(BaseModel):
        run: TrainingSpec

    with pytest.raises(ValidationError) as nested:
        Theirs.model_validate({"run": wrong})
    assert [error["loc"] for error in nested.value.errors()] == [("run", "epochs"), ("run", "lr")]


def test_a_module_in_the_place_of_a_config_is_told_where_modules_go():
    with pytest.raises(SpecError, match=r"an nn\.Module is no encoder; Contrastive"):
        Tower(encoder=torch.nn.Linear(2, 3), head=Linear())
    with pytest.raises(SpecError, match=r"an nn\.Module is no head"):
        Tower(encoder=CBOW(), head=torch.nn.Linear(2, 3))
