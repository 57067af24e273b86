"""Spec objects made in Python are checked like files, however they are made."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from contrastive import ModelSpec, RunSpec, Tower, TrainingSpec, build_model, train
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
