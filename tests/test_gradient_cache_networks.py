"""Micro-batches of networks of timm and transformers, and of the towers of a model."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from contrastive import build_model
from contrastive.errors import TrainingError
from contrastive.losses import functional
from contrastive.training.gradient_cache import forward_in_micro_batches
from contrastive.training.tower_forward import embed
from tests.micro_batches import IDS, WIDTH, B, assert_equal, gradients, scalar
from tests.toys import toy_dict

pytestmark = pytest.mark.usefixtures("one_seed")


# Real towers


class Pooled(nn.Module):
    def __init__(self, model, pool):
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, **inputs):
        return normalize(self.pool(self.model(**inputs)), dim=1)


def distilbert(dropout=0.0):
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(dim=WIDTH * 2, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=32)
    config.dropout = config.attention_dropout = dropout
    model = DistilBertModel(config)
    lengths = torch.arange(B) % 7 + 1  # padded to the batch, as tokenizers do
    mask = (torch.arange(8) < lengths[:, None]).long()
    words = torch.randint(1, 32, (B, 8)) * mask
    inputs = {"input_ids": words, "attention_mask": mask}
    return Pooled(model, lambda out: out.last_hidden_state[:, 0]), inputs


def hf_resnet():
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, WIDTH * 2], depths=[1, 1])
    inputs = {"pixel_values": torch.randn(B, 3, 32, 32).double()}
    return Pooled(ResNetModel(config), lambda out: out.pooler_output.flatten(1)), inputs


def timm_resnet():
    import timm

    net = timm.create_model("test_resnet", num_classes=WIDTH * 2)
    return Pooled(net, lambda out: out), {"x": torch.randn(B, 3, 32, 32).double()}


@pytest.mark.slow
@pytest.mark.parametrize("image", [hf_resnet, timm_resnet])
@pytest.mark.parametrize("rows", [1, 5])
def test_real_networks_get_the_gradients_of_the_batch(image, rows):
    (images, pixels), (texts, words), log_scale = image(), distilbert(), scalar(2.0)
    images, texts = images.double(), texts.double()
    with pytest.raises(TrainingError, match="BatchNorm"):
        forward_in_micro_batches(images, pixels, rows=rows)
    for module in images.modules():  # else it starts with means of 0 and variances of 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)

    def found(rows):
        a = forward_in_micro_batches(images, pixels, rows=rows, batch_norm="eval")
        b = forward_in_micro_batches(texts, words, rows=rows)
        loss = functional.infonce(a, b, IDS, log_scale=log_scale)
        loss.backward()
        owners = {"image": images, "text": texts}
        grads = {
            f"{who}.{name}": p.grad
            for who, owner in owners.items()
            for name, p in owner.named_parameters()
            if p.grad is not None
        } | {"log_scale": log_scale.grad}
        for owner in owners.values():
            owner.zero_grad(set_to_none=True)
        log_scale.grad = None
        return grads

    split, whole = found(rows), found(None)
    assert split.keys() == whole.keys()
    largest = max(float(g.norm()) for g in whole.values())
    for name, right in whole.items():  # some are 0 in truth, such as those of the keys' biases
        assert float((split[name] - right).norm()) < 1e-10 * largest, name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_dropout_of_a_transformer_is_the_same_in_both_passes(attention):
    texts, words = distilbert(dropout=0.3)
    texts.model.set_attn_implementation(attention)
    texts, weight = texts.double(), torch.randn(B, WIDTH * 2).double()

    def held(texts, words):
        starts = range(0, B, 5)
        return torch.cat([texts(**{k: v[i : i + 5] for k, v in words.items()}) for i in starts])

    def found(embed):
        torch.manual_seed(3)
        (embed(texts, words) * weight).sum().backward()
        grads = [p.grad for p in texts.parameters() if p.grad is not None]
        texts.zero_grad(set_to_none=True)
        return grads

    assert_equal(found(partial(forward_in_micro_batches, rows=5)), found(held))


# Towers of a model


@pytest.fixture
def model(tmp_path):
    spec = toy_dict(tmp_path / "data")
    spec["model"]["towers"]["image"]["head"]["dropout"] = 0.0
    return build_model(spec)


def test_a_frozen_encoder_runs_once_and_its_head_sees_the_whole_batch(model):
    tower, calls = model.tower("image"), {"encoder": [], "head": []}
    for name, rows in calls.items():
        getattr(tower, name).register_forward_hook(lambda *a, rows=rows: rows.append(len(a[2])))
    image = {"image": torch.randn(B, 3, 32, 32)}
    weight = torch.randn(B, 32)
    found = gradients((embed(tower, image, rows=5) * weight).sum(), tower.head)
    assert calls == {"encoder": [5, 5, 2], "head": [12]}
    assert all(p.grad is None for p in tower.encoder.parameters())
    assert_equal(found, gradients((tower(**image) * weight).sum(), tower.head), within=1e-5)


def test_a_trained_tower_is_embedded_by_micro_batches(model):
    tower = model.tower("text")
    words = tower.encoder.preprocess([f"word {i} of {i % 3}" for i in range(B)])
    weight = torch.randn(B, 32)
    found = gradients((embed(tower, words, rows=5) * weight).sum(), tower)
    assert_equal(found, gradients((tower(**words) * weight).sum(), tower), within=1e-5)
