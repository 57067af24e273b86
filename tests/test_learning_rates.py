"""Parts of a model train at learning rates of their own."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from contrastive import RunSpec, build_model
from contrastive.errors import SpecError
from contrastive.nn.layer_stack import layers
from contrastive.reporting.run_log import read_log
from contrastive.spec import TrainingSpec
from contrastive.training.optimizer import optimizer_of, rate_factors, set_rates
from contrastive.training.train import train
from tests.fine_tuning import VIT, partly, run_of, towers
from tests.toys import network, toy_dict


def test_each_parameter_steps_at_its_own_rate():
    """AdamW with factors is AdamW with a group for each parameter, at the rate worked out here."""
    settings = TrainingSpec(
        lr=1e-2, layer_decay={"image": 0.5}, lr_factors={"towers.text.*": 0.1, "*.bias": 2.0}
    )

    def rate(name):
        found = 1e-2 * (0.1 if name.startswith("towers.text.") else 1)
        found *= 2 if name.endswith(".bias") else 1
        if name.startswith("towers.image.encoder.net.blocks."):
            found *= 0.5 ** (3 - int(name.split(".")[5]))
        elif name.startswith(("towers.image.encoder.net.p",)):  # pos_embed, patch_embed
            found *= 0.5**4
        return found

    def stepped(optimizer_for):
        torch.manual_seed(0)
        model = build_model(towers())
        optimizer, share_ = optimizer_for(model)
        for share in (1.0, 0.3):
            share_(share)
            for i, p in enumerate(model.parameters()):
                p.grad = torch.full_like(p, 0.1 * (i + 1)).cos()
            optimizer.step()
        return dict(model.named_parameters())

    def ours(model):
        optimizer = optimizer_of(model, settings)
        return optimizer, lambda share: set_rates(optimizer, share)

    def slow(model):
        groups = [
            {"params": [p], "weight_decay": 0.01 if p.ndim >= 2 else 0.0, "name": name}
            for name, p in model.named_parameters()
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)

        def share_(share):
            for group in optimizer.param_groups:
                group["lr"] = rate(group["name"]) * share

        return optimizer, share_

    found, right = stepped(ours), stepped(slow)
    for name, parameter in right.items():
        torch.testing.assert_close(found[name], parameter, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm-resnet", "timm-vit", "hf-text"])
def test_earlier_layers_have_lower_rates(name, distilbert, vit_weights):
    modality, encoder, *_ = partly(name, distilbert, vit_weights)
    model = build_model(towers(**{modality: {"encoder": encoder, "frozen": "none"}}))
    factors = rate_factors(model, TrainingSpec(layer_decay={modality: 0.5}))
    stack = layers(model.tower(modality).encoder)
    assert len(stack) == {"timm-resnet": 4, "timm-vit": 6, "hf-text": 3}[name]
    names = {p: n for n, p in model.named_parameters()}
    for depth, layer in enumerate(stack, 1):
        found = {factors[names[p]] for p in layer.parameters()}
        assert found == {0.5 ** (len(stack) + 1 - depth)}
    first = next(iter(model.tower(modality).encoder.parameters()))
    assert factors[names[first]] == 0.5 ** (len(stack) + 1)
    assert all(factor == 1 for n, factor in factors.items() if f"{modality}.encoder" not in n)


def test_a_run_logs_the_largest_rate_and_says_all(tmp_path, capsys):
    spec = run_of(
        tmp_path,
        "image",
        {"encoder": VIT, "frozen": "none"},
        epochs=1,
        warmup=0.0,
        lr=1e-3,
        layer_decay={"image": 0.5},
        lr_factors={"towers.image.head.*": 4.0},
    )
    train(spec, tmp_path / "run")
    told = capsys.readouterr().err
    assert "peak learning rates: image.encoder 6.3e-05 to 0.001, image.head 0.004, " in told
    first = next(line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line)
    assert first["lr"] == 4e-3


@pytest.mark.slow
def test_one_pass_over_the_weights_takes_the_steps_of_one_for_each(tmp_path, monkeypatch):
    spec = RunSpec.model_validate(toy_dict(tmp_path / "data", epochs=5, lr=1e-3))
    in_one, again = train(spec, tmp_path / "in_one"), train(spec, tmp_path / "again")
    monkeypatch.setattr("contrastive.training.optimizer.FUSED", set())
    one_by_one = train(spec, tmp_path / "one_by_one")
    losses = [
        [line["loss"] for line in read_log(tmp_path / run / "log.jsonl") if "loss" in line]
        for run in ("in_one", "again", "one_by_one")
    ]
    assert losses[0] == losses[1]
    assert losses[0][:2] == pytest.approx(losses[2][:2], rel=1e-6)
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)
    weights = zip(in_one.parameters(), again.parameters(), one_by_one.parameters(), strict=True)
    for found, same, alike in weights:
        assert torch.equal(found, same)
        torch.testing.assert_close(found, alike, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_by_the_passes_it_began_with(tmp_path, monkeypatch):
    spec = RunSpec.model_validate(toy_dict(tmp_path / "data"))
    monkeypatch.setattr("contrastive.training.optimizer.FUSED", set())
    whole = train(spec, tmp_path / "run")
    steps = sorted((tmp_path / "run" / "checkpoints").iterdir())
    shutil.rmtree(steps[-1])
    shutil.rmtree(tmp_path / "run" / "model")
    monkeypatch.undo()
    resumed = train(spec, tmp_path / "run", resume=True)
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


@pytest.mark.slow
def test_a_resumed_run_with_rates_and_parts_is_the_one_that_never_stopped(tmp_path):
    spec = run_of(
        tmp_path,
        "image",
        {
            "encoder": {"type": "timm", "name": "test_resnet", "weights": str(network())},
            "head": {"type": "mlp", "dropout": 0.3},
            "unfrozen": ["net.layer[34].*"],
        },
        epochs=3,
        layer_decay={"image": 0.7},
        lr_factors={"towers.text.encoder.*": 0.1},
        checkpoint_activations=["image"],
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(spec, whole)
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints" / "step-00000012")
    shutil.rmtree(broken / "model")
    train(spec, broken, resume=True)
    left, right = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"lr_factors": {"tower.text.*": 0.1}}, "lr_factors: 'tower.text.*' matches no parameter"),
        ({"lr_factors": {"towers.image.encoder.*": 0.1}}, "matches no parameter that trains"),
        ({"layer_decay": {"text": 0.5}}, "layer_decay: the text encoder has no stack of layers"),
        ({"checkpoint_activations": ["text"]}, "checkpoint_activations: the text encoder has no"),
    ],
)
def test_rates_and_recomputation_of_nothing_are_mistakes_in_one_line(tmp_path, training, told):
    spec = toy_dict(tmp_path / "data", **training)
    with pytest.raises(SpecError) as error:
        train(RunSpec.model_validate(spec), tmp_path / "run")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "field", [{"layer_decay": {"sound": 0.5}}, {"checkpoint_activations": ["sound"]}]
)
def test_settings_of_a_tower_that_is_not_there_are_refused_by_the_spec(field, tmp_path):
    with pytest.raises(ValueError, match="the model has no sound tower; it has: image, text"):
        RunSpec.model_validate(toy_dict(tmp_path / "data", **field))
