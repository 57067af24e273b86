"""LoRA trains its matrices alone, and saves no more."""

import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from contrastive import build_model, load_model
from contrastive.errors import MissingExtra, SpecError
from contrastive.training.train import train
from tests.fine_tuning import changes, run_of, state, timm_vit, towers


def with_lora(name, distilbert, vit_weights, **lora):
    if name == "timm-vit":
        return "image", {"encoder": timm_vit(vit_weights), "lora": lora}
    return "text", {"encoder": {"type": "hf-text", "name": str(distilbert)}, "lora": lora}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm-vit", "hf-text"])
def test_lora_trains_its_matrices_alone_and_saves_no_more(name, distilbert, vit_weights, tmp_path):
    modality, tower = with_lora(name, distilbert, vit_weights, rank=2, dropout=0.2)
    spec = run_of(tmp_path, modality, tower, checkpoint_activations=[modality])
    plain = build_model(towers(**{modality: {"encoder": tower["encoder"]}})).tower(modality).encoder
    torch.manual_seed(0)
    started = build_model(spec).eval().tower(modality)
    batch = started.encoder.preprocess([spec.data.build("test")[0][modality]])
    with torch.no_grad():
        assert torch.equal(started.encoder(**batch), plain.eval()(**batch)), "not as at first"
    before = state(started.encoder)

    model = train(spec, tmp_path / "run")
    encoder = model.tower(modality).encoder
    changed = changes(before, state(encoder))
    matrices = {n for n in before if "lora_" in n}
    assert changed == matrices
    assert matrices
    base = {n.replace(".base_layer", "") for n in before.keys() - matrices}
    assert base == plain.state_dict().keys()

    file = tmp_path / "run" / "model" / "model.safetensors"
    saved = load_file(file)
    assert {n for n in saved if n.startswith(f"towers.{modality}.encoder.")} == {
        f"towers.{modality}.encoder.{n}" for n in matrices
    }
    sizes = {n: 4 * t.numel() for n, t in before.items()}
    ours = sum(t.numel() * t.element_size() for n, t in saved.items() if modality in n)
    assert ours < sum(sizes.values()) / 4
    again = load_model(tmp_path / "run")
    row = spec.data.build("test")[0][modality]
    assert torch.equal(again.embed(modality, [row]), model.embed(modality, [row]))


def test_lora_has_dropout_in_training_and_the_base_has_none(distilbert, vit_weights):
    _, tower = with_lora("hf-text", distilbert, vit_weights, dropout=0.5)
    encoder = build_model(towers(text=tower)).train().tower("text").encoder
    dropouts = {n: m.training for n, m in encoder.named_modules() if isinstance(m, nn.Dropout)}
    assert {n for n, on in dropouts.items() if on} == {n for n in dropouts if "lora" in n}
    assert any("lora" in n for n in dropouts)


def test_lora_takes_the_layers_that_are_named(vit_weights):
    tower = {"encoder": timm_vit(vit_weights), "lora": {"targets": ["*.blocks.[45].mlp.fc?"]}}
    tower["unfrozen"] = ["net.norm.*"]
    encoder = build_model(towers(image=tower)).tower("image").encoder
    trained = {n.partition(".lora_")[0] for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {f"net.blocks.{b}.mlp.fc{n}" for b in (4, 5) for n in (1, 2)} | {
        "net.norm.weight",
        "net.norm.bias",
    }


def test_lora_leaves_out_layers_that_are_not_called():
    """timm's BEiT multiplies by ``qkv.weight`` itself, so that matrices there would never train."""
    from timm.models.beit import Beit

    from contrastive.model.lora import add_lora
    from contrastive.spec import LoRA

    net = Beit(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    add_lora(net, LoRA(rank=2))
    for name, parameter in net.named_parameters():
        nn.init.ones_(parameter) if "lora_B" in name else None
    net(torch.randn(2, 3, 16, 16)).square().sum().backward()
    trained = {name: p.grad for name, p in net.named_parameters() if p.requires_grad}
    assert {name.partition(".lora_")[0] for name in trained} == {
        f"blocks.{depth}.attn.proj" for depth in (0, 1)
    }
    assert all(grad is not None and grad.any() for grad in trained.values())


@pytest.mark.slow
def test_lora_without_a_layer_to_go_beside_is_a_mistake_in_one_line(vit_weights):
    asked = {"encoder": timm_vit(vit_weights), "lora": {"targets": ["*.query"]}}
    with pytest.raises(
        SpecError, match=r"^towers.image: lora.targets: '\*.query' matches no linear"
    ):
        build_model(towers(image=asked))
    transformer = {"type": "text-transformer", "width": 16, "depth": 2, "heads": 2}
    with pytest.raises(SpecError, match=r"^towers.text: lora: the encoder has no linear") as told:
        build_model(towers(text={"encoder": transformer, "lora": {}}))
    assert str(told.value).endswith("it has no others; use unfrozen, or frozen: none")
    build_model(towers(text={"encoder": transformer, "unfrozen": ["*"]}))


def test_lora_without_peft_says_what_to_install(vit_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r'pip install "contrastive-kit\[lora\]"'):
        build_model(towers(image={"encoder": timm_vit(vit_weights), "lora": {}}))
