"""The projection heads: widths, gradients, what they refuse, and their specs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm

from contrastive.config import yaml_files as files
from contrastive.config.base import Config
from contrastive.errors import SpecError
from contrastive.heads import Head, Identity, Linear, Mlp

torch.set_num_threads(1)

HEADS = [
    Linear(),
    Linear(bias=False),
    Mlp(),
    Mlp(hidden=32, dropout=0.0),
    Mlp(residual=True),
    Mlp(residual=True, hidden=8, dropout=0.5),
]


class Holder(Config):
    head: Head


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_heads_give_the_width_asked_for_and_train_every_parameter(head):
    module, features = head.build(12, 8), torch.randn(5, 12, requires_grad=True)
    embeddings = module(features)
    assert embeddings.shape == (5, 8)
    embeddings.square().mul(torch.randn(5, 8)).sum().backward()
    for tensor in (features, *module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_weights_survive_a_state_dict(head):
    first, second = head.build(6, 8).eval(), head.build(6, 8).eval()
    second.load_state_dict(first.state_dict())
    features = torch.randn(3, 6)
    assert torch.equal(first(features), second(features))


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_head_is_one_matrix(bias):
    module = Linear(bias=bias).build(12, 8)
    assert isinstance(module, nn.Linear)
    assert (module.bias is not None) == bias


def test_a_plain_mlp_is_two_layers_with_a_gelu_between():
    module, features = Mlp(hidden=32).build(12, 8).eval(), torch.randn(5, 12)
    first, _, _, second = module
    assert first.out_features == second.in_features == 32
    torch.testing.assert_close(module(features), second(gelu(first(features))))
    assert Mlp().build(12, 8)[0].out_features == 8


def test_a_residual_mlp_normalises_the_sum_of_its_layers():
    module, features = Mlp(residual=True).build(12, 8).eval(), torch.randn(5, 12)
    x = features @ module.project.weight.T + module.project.bias
    x = x + gelu(x) @ module.refine.weight.T + module.refine.bias
    torch.testing.assert_close(module(features), layer_norm(x, (8,)))


@pytest.mark.parametrize("residual", [True, False])
def test_dropout_is_for_training_only(residual):
    module, features = Mlp(dropout=0.5, residual=residual).build(12, 64), torch.randn(5, 12)
    assert not torch.equal(module(features), module(features))
    module.eval()
    assert torch.equal(module(features), module(features))
    module = Mlp(dropout=0.0, residual=residual).build(12, 64)
    assert torch.equal(module(features), module.eval()(features))


@pytest.mark.parametrize("residual", [True, False])
def test_dropout_spares_the_share_that_it_should(residual):
    module = Mlp(dropout=0.25, residual=residual).build(4, 64)
    dropped = []
    drop = next(m for m in module.modules() if isinstance(m, nn.Dropout))
    drop.register_forward_hook(lambda _m, _i, out: dropped.append((out == 0).float().mean()))
    module(torch.randn(500, 4))
    assert dropped[0].item() == pytest.approx(0.25, abs=0.02)


def test_an_identity_head_keeps_the_features():
    features = torch.randn(5, 12)
    assert Identity().build(12, 12)(features) is features


def test_an_identity_head_says_how_to_set_the_width():
    with pytest.raises(SpecError) as caught:
        Identity().build(512, 256)
    message = "an identity head gives 512 features, not 256; set embed_dim: 512"
    assert str(caught.value) == message


def test_a_residual_mlp_refuses_a_hidden_width_of_its_own():
    with pytest.raises(SpecError) as caught:
        Mlp(hidden=32, residual=True).build(12, 8)
    message = "a residual mlp adds hidden (32) to embed_dim (8); leave hidden out"
    assert str(caught.value) == message


@pytest.mark.parametrize("fields", [{"dropout": 1.0}, {"dropout": -0.1}, {"hidden": 0}])
def test_values_without_meaning_are_refused(fields):
    with pytest.raises(SpecError, match=r"^.*$"):
        Mlp(**fields)


@pytest.mark.parametrize("head", [*HEADS, Identity()], ids=repr)
def test_specs_survive_a_round_trip(head, tmp_path):
    spec = Holder(head=head)
    assert Holder.model_validate(spec.model_dump()) == spec
    assert Holder.model_validate_json(spec.model_dump_json()) == spec
    path = tmp_path / "spec.yaml"
    path.write_text(files.dump_spec(spec), encoding="utf-8")
    assert files.load_spec(Holder, path) == spec


@pytest.mark.slow
def test_the_menu_imports_no_torch():
    code = "import sys, contrastive.heads as m; m.Mlp(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
