"""Activation checkpointing: the same gradients with fewer bytes kept."""

import copy
import shutil

import pytest
import timm
import torch

from contrastive import RunSpec, build_model
from contrastive.encoders import HFText, ResNet, TextTransformer, Timm, ViT
from contrastive.encoders.image_transform import ImageModule
from contrastive.errors import SpecError
from contrastive.reporting.run_log import read_log
from contrastive.training.train import train
from tests.fine_tuning import CAPTIONS, VIT, changes, run_of, state, towers
from tests.toys import network, toy_dict


def stored(encoder, batch):
    """Return gradients, state after the pass, and bytes that autograd kept, under one seed."""
    encoder.zero_grad(set_to_none=True)
    kept = {}
    own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = encoder(**batch)
    size = sum(nbytes for _, nbytes in kept.values())
    (features.square().sum() + features.sum()).backward()
    grads = {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
    return grads, state(encoder), size


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "resnet", "text-transformer", "timm-resnet", "hf-text"])
def test_gradients_are_the_same_with_fewer_bytes_kept(kind, distilbert):
    config, samples = {
        "vit": (ViT(**{k: v for k, v in VIT.items() if k != "type"}), None),
        "resnet": (ResNet(width=4, image_size=32, layers=(4, 4, 2, 2)), None),
        "text-transformer": (
            TextTransformer(width=16, depth=3, heads=2, dropout=0.3),
            CAPTIONS[:6],
        ),
        "timm-resnet": (Timm(name="test_resnet", pretrained=False), None),
        "hf-text": (HFText(name=str(distilbert)), CAPTIONS[:6]),
    }[kind]

    def built():
        torch.manual_seed(0)
        return config.build().train()

    plain, cheap = built(), built()
    batch = plain.preprocess(samples) if samples else {"image": torch.randn(6, 3, 32, 32)}
    cheap.checkpoint_activations()
    cheap.checkpoint_activations()
    (grads, after, size), (found, again, less) = stored(plain, batch), stored(cheap, batch)
    assert grads.keys() == found.keys()
    assert grads
    for name in grads:
        torch.testing.assert_close(found[name], grads[name], rtol=1e-4, atol=1e-5, msg=name)
    assert changes(after, again) == set(), "BatchNorm counted the batch twice"
    assert (
        less < (0.7 if kind in ("vit", "text-transformer", "hf-text") else 0.9) * size
    )  # a stem is not recomputed
    plain.eval(), cheap.eval()
    with torch.no_grad():
        assert torch.equal(plain(**batch), cheap(**batch))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("densenet121", {"growth_rate": 4, "block_config": (2, 3)}),
        ("legacy_seresnet18", {}),
    ],
)
def test_layers_that_take_lists_or_change_their_input_have_the_same_gradients(name, settings):
    """A list grows after the pass, and a stem has an operation in place."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, **settings)
    image = torch.randn(2, 3, 64, 64)
    found = []
    for cheap in (False, True):
        encoder = ImageModule(copy.deepcopy(net), 1, None).train()
        if cheap:
            encoder.checkpoint_activations()
        torch.manual_seed(1)  # of dropout
        encoder(image=image).square().sum().backward()
        found.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("name", ["selecsls42", "inception_v3"])
def test_a_stack_of_a_head_is_none(name):
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0)
    with pytest.raises(SpecError, match="no stack of layers"):
        ImageModule(net, 1, None).checkpoint_activations()


def test_a_decoder_with_lora_recomputes_too(tmp_path, distilbert):
    """It would keep keys and values for generating, and meet its own of the first pass."""
    from transformers import GPT2Config, GPT2Model

    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 64}
    ends = {"bos_token_id": 2, "eos_token_id": 3}
    GPT2Model(GPT2Config(**size, **ends)).save_pretrained(tmp_path)
    for file in distilbert.glob("*token*"):
        shutil.copy(file, tmp_path)
    tower = {"encoder": {"type": "hf-text", "name": str(tmp_path)}, "lora": {"rank": 2}}
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        encoder = build_model(towers(text=tower)).train().tower("text").encoder
        if recompute:
            encoder.checkpoint_activations()
        grads, _, size = stored(encoder, encoder.preprocess(CAPTIONS[:4]))
        found.append((grads, size))
    (plain, size), (cheap, less) = found
    assert plain.keys() == cheap.keys()
    assert all("lora_" in name for name in plain)
    for name, grad in plain.items():
        torch.testing.assert_close(cheap[name], grad, msg=name)
    assert less < 0.5 * size


# the rows at once in one test, in micro-batches in the other; the rest at night
@pytest.mark.slow
@pytest.mark.parametrize("rows", [None, pytest.param(5, marks=pytest.mark.nightly)])
def test_a_run_that_recomputes_is_the_run_without(tmp_path, rows):
    logs = []
    for name, towers_ in (("plain", []), ("cheap", ["image", "text"])):
        spec = toy_dict(tmp_path / "data", micro_batch=rows, lr=1e-3)
        transformer = {"type": "text-transformer", "width": 16, "depth": 2, "heads": 2}
        two = spec["model"]["towers"]
        two["image"] = {"encoder": VIT, "head": {"type": "linear"}}
        two["text"] = {"encoder": transformer | {"dropout": 0.3}, "head": {"type": "linear"}}
        spec["training"]["checkpoint_activations"] = towers_
        train(RunSpec.model_validate(spec), tmp_path / name)
        lines = read_log(tmp_path / name / "log.jsonl")
        logs.append([line[k] for line in lines if "loss" in line for k in ("loss", "grad_norm")])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [5, pytest.param(None, marks=pytest.mark.nightly)])
def test_recomputed_batch_norm_by_choice_keeps_its_statistics(tmp_path, rows):
    norms = []
    for towers_ in ([], ["image"]):
        encoder = {"type": "timm", "name": "test_resnet", "weights": str(network())}
        spec = run_of(
            tmp_path,
            "image",
            {"encoder": encoder, "frozen": "none"},
            epochs=1,
            lr=1e-3,
            batch_norm="eval",
            micro_batch=rows,
            checkpoint_activations=towers_,
        )
        before = state(build_model(spec).tower("image").encoder)
        run = tmp_path / f"run{len(towers_)}"
        after = state(train(spec, run).tower("image").encoder)
        assert not any("running" in name or "tracked" in name for name in changes(before, after))
        lines = read_log(run / "log.jsonl")
        norms.append([line["grad_norm"] for line in lines if "loss" in line])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
