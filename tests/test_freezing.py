"""Parts of encoders train; the rest stays as it was."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrastive import build_model, load_model
from contrastive.errors import SpecError, WeightsError
from contrastive.training.train import train
from tests.fine_tuning import CAPTIONS, VIT, changes, partly, run_of, state, towers
from tests.toys import network

NAMES = ("timm-resnet", "timm-vit", "vit", "hf-text")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_a_pattern_matches_trains_and_the_rest_stays(name, distilbert, vit_weights, tmp_path):
    modality, encoder, patterns, begins = partly(name, distilbert, vit_weights)
    spec = run_of(tmp_path, modality, {"encoder": encoder, "unfrozen": patterns})
    torch.manual_seed(0)
    before = state(build_model(spec).tower(modality).encoder)
    model = train(spec, tmp_path / "run")
    changed = changes(before, state(model.tower(modality).encoder))
    parameters = {n for n, _ in model.tower(modality).encoder.named_parameters()}
    assert changed & parameters == {n for n in parameters if n.startswith(begins)}
    assert all(n.startswith(begins) for n in changed), "buffers of what is frozen moved"
    if name == "timm-resnet":
        assert any("running_mean" in n for n in changed), "BatchNorm that trains did not count"

    again = load_model(tmp_path / "run")
    row = spec.data.build("test")[0][modality]
    assert torch.equal(again.embed(modality, [row]), model.embed(modality, [row]))
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    kept = {n.removeprefix(f"towers.{modality}.encoder.") for n in saved if ".encoder." in n}
    if encoder["type"] == "vit":  # random: its spec does not bring it back
        assert parameters <= kept
    else:
        assert changed <= {n for n in kept if n in before}
        assert all(n.startswith(begins) for n in kept & before.keys() if n not in cbow(model))
    again.save(tmp_path / "again")
    assert torch.equal(
        load_model(tmp_path / "again").embed(modality, [row]), again.embed(modality, [row])
    )


def cbow(model):
    return {n for n, _ in model.tower("text").encoder.named_parameters()}


def test_a_model_refuses_another_frozen_part_than_it_was_trained_with(tmp_path):
    own = tmp_path / "own.safetensors"
    shutil.copy(network(), own)
    encoder = {"type": "timm", "name": "test_resnet", "weights": str(own)}
    spec = run_of(tmp_path, "image", {"encoder": encoder, "unfrozen": ["net.layer4.*"]})
    build_model(spec).save(tmp_path / "model")
    weights = load_file(own)
    weights["layer4.0.bn1.weight"] += 1
    save_file(weights, own)
    load_model(tmp_path / "model")  # that part is in the folder
    weights["layer1.0.bn1.weight"] += 1
    save_file(weights, own)
    with pytest.raises(WeightsError, match="image encoder's weights are not those it was trained"):
        load_model(tmp_path / "model")


def test_only_modules_that_train_whole_are_in_training_mode(distilbert):
    encoder = {"type": "hf-text", "name": str(distilbert)}
    tower = {"encoder": encoder, "unfrozen": ["*.layer.2.*"]}
    encoder = build_model(towers(text=tower)).train().tower("text").encoder
    training = {name for name, module in encoder.named_modules() if module.training}
    assert all(name.startswith("model.transformer.layer.2") for name in training)
    assert "model.transformer.layer.2.attention.dropout" in training
    batch = encoder.preprocess(CAPTIONS[:4])
    hidden = encoder.model.transformer.layer[1]
    seen = []
    hidden.register_forward_hook(lambda *args: seen.append(args[2]))
    first, second = encoder(**batch), encoder(**batch)
    assert torch.equal(seen[0], seen[1]), "dropout is on in what is frozen"
    assert not seen[0].requires_grad, "a graph was built through what is frozen"
    assert not torch.equal(first, second), "dropout is off in what trains"


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("net.block.1.*", "close: net.blocks.1.*, "),
        ("blocks.1.*", "did you mean '*.blocks.1.*'?"),
        ("nothing", "give some of: net.pos_embed, net.patch_embed.*, net.blocks.*, net.fc_norm.*"),
    ],
)
def test_a_pattern_that_matches_nothing_is_a_mistake_in_one_line(pattern, told):
    with pytest.raises(SpecError) as error:
        build_model(towers(image={"encoder": VIT, "unfrozen": [pattern]}))
    line = f"towers.image: unfrozen: {pattern!r} matches no parameter of the encoder; {told}"
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("frozen", ["none", "all"])
@pytest.mark.parametrize("field", [{"unfrozen": ["*"]}, {"lora": {}}])
def test_exceptions_to_frozen_need_a_frozen_encoder(frozen, field):
    with pytest.raises(SpecError, match="set frozen: encoder"):
        build_model(towers(image={"encoder": VIT, "frozen": frozen} | field))


@pytest.mark.slow
def test_a_run_says_that_features_are_not_cached(tmp_path, capsys):
    tower = {"encoder": VIT, "unfrozen": ["net.blocks.2.*"]}
    train(run_of(tmp_path, "image", tower, epochs=1), tmp_path / "run")
    told = capsys.readouterr().err
    assert "image: a part of the encoder trains, so that its features are not cached" in told
    assert "features image: live" in told
