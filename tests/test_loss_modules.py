"""The modules of InfoNCE and the sigmoid loss: metrics, parameters, specs, and which execution."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive.config import yaml_files as files
from contrastive.config.base import Config
from contrastive.errors import SpecError
from contrastive.losses import InfoNCE, Loss, Sigmoid, auto_execution
from contrastive.losses.functional import accuracy, infonce, sigmoid, similarity
from tests.pair_losses import MODULES, POSITIVES, call, unit


class Holder(Config):
    loss: Loss


class Calls(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("config", MODULES)
def test_a_step_takes_one_product_and_never_waits_for_the_device(config, positives):
    module, ids = config(positives=positives).build(), torch.arange(8) // 2
    a, b = (unit(8, 4, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    module(a, b, ids, ids)  # the first call looks whether rows are normalised
    with Calls() as calls:
        loss, _ = module(a, b, ids, ids)
    assert sum(name in {"mm", "addmm", "bmm", "matmul"} for name in calls.names) == 1
    with calls:
        loss.backward()
        module.clamp_()
    assert not {"_local_scalar_dense", "nonzero", "_unique2", "is_nonzero"} & {*calls.names}


# Modules


@pytest.mark.parametrize("config", MODULES)
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("with_ids", [True, False])
def test_modules_compute_the_functions(config, positives, with_ids):
    module = config(positives=positives).build()
    a, b = unit(6, 4, dtype=torch.float32), unit(6, 4, seed=1, dtype=torch.float32)
    ids = torch.tensor([0, 0, 1, 2, 2, 2]) if with_ids else None
    loss, figures = module(a, b, ids, ids)
    function = infonce if config is InfoNCE else sigmoid
    bias = getattr(module, "bias", None)
    assert loss == call(function, a, b, ids, ids, module.log_scale, bias, positives)
    assert figures["collisions"] == (5 if with_ids else 0)
    assert figures["accuracy"] == accuracy(a @ b.T, ids, ids)
    assert figures["log_scale"] == module.log_scale
    assert all(f.dim() == 0 and not f.requires_grad for f in figures.values())
    assert set(figures) - {"accuracy", "collisions"} == {*module.state_dict()}


@pytest.mark.parametrize("config", MODULES)
def test_figures_stay_what_they_were_when_parameters_move(config):
    module = config().build()
    _, figures = module(unit(3, 2), unit(3, 2, seed=1))
    before = {name: float(figure) for name, figure in figures.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert before == {name: float(figure) for name, figure in figures.items()}


@pytest.mark.parametrize("config", MODULES)
def test_logits_are_fp32_under_autocast_and_have_the_bias(config):
    module = config().build()
    a, b = (unit(4, 8, seed=s).bfloat16() for s in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = module.logits(a, b)
    expected = similarity(a.float(), b.float(), log_scale=module.log_scale)
    torch.testing.assert_close(logits, expected + (-10.0 if config is Sigmoid else 0.0))


@pytest.mark.parametrize("config", MODULES)
@pytest.mark.parametrize(("moved", "kept"), [(9.0, math.log(50)), (-2.0, 0.0), (1.5, 1.5)])
def test_clamp_keeps_the_scale_between_1_and_its_bound(config, moved, kept):
    module = config(max_scale=50).build()
    with torch.no_grad():
        module.log_scale.fill_(moved)
    module.clamp_()
    assert module.log_scale.item() == pytest.approx(kept)
    assert module.log_scale.requires_grad


def test_parameters_start_where_the_papers_start():
    infonce_loss, sigmoid_loss = InfoNCE().build(), Sigmoid().build()
    assert infonce_loss.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert sigmoid_loss.log_scale.item() == pytest.approx(math.log(10))
    assert sigmoid_loss.bias.item() == -10
    assert {*dict(infonce_loss.named_parameters())} == {*infonce_loss.state_dict()} == {"log_scale"}
    assert {*dict(sigmoid_loss.named_parameters())} == {"log_scale", "bias"}
    assert {p.dtype for m in (infonce_loss, sigmoid_loss) for p in m.parameters()} == {
        torch.float32
    }


def test_a_fixed_temperature_is_saved_but_not_trained():
    module = InfoNCE(temperature=0.05, learn_temperature=False).build()
    assert not list(module.parameters())
    other = InfoNCE(learn_temperature=False).build()
    other.load_state_dict(module.state_dict())
    assert other.log_scale.item() == pytest.approx(math.log(20))
    module.clamp_()
    assert torch.equal(other.log_scale, module.log_scale)


@pytest.mark.parametrize("config", MODULES)
def test_training_separates_the_pairs(config):
    module = config().build()
    a, b = (unit(16, 8, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    optimizer = torch.optim.Adam([a, b, *module.parameters()], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss, figures = module(normalize(a, dim=1), normalize(b, dim=1))
        loss.backward()
        optimizer.step()
        module.clamp_()
    assert figures["accuracy"] == 1
    assert loss < 0.2


# Specs


@pytest.mark.parametrize(
    "loss",
    [
        InfoNCE(),
        InfoNCE(temperature=0.02, learn_temperature=False, max_scale=50, positives="mask"),
        Sigmoid(),
        Sigmoid(temperature=0.5, bias=-2, max_scale=1000, positives="ignore"),
    ],
)
def test_specs_survive_a_round_trip(loss, tmp_path):
    spec = Holder(loss=loss)
    assert Holder.model_validate(spec.model_dump()) == spec
    assert Holder.model_validate_json(spec.model_dump_json()) == spec
    path = tmp_path / "spec.yaml"
    path.write_text(files.dump_spec(spec), encoding="utf-8")
    assert files.load_spec(Holder, path) == spec


@pytest.mark.parametrize("name", ["infonce", "sigmoid"])
@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ("temperature: 2", "(0.01) and 1"),
        ("temperature: 0.005", "(0.01) and 1"),
        ("max_scale: 5", "(0.2) and 1"),
    ],
)
def test_a_temperature_out_of_bounds_is_one_line(name, fields, bounds, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(f"loss:\n  type: {name}\n  {fields}\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        files.load_spec(Holder, path)
    assert str(caught.value).startswith(f"{path}:1: loss: temperature ")
    assert str(caught.value).endswith(f" is not between 1/max_scale {bounds}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", MODULES)
@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0}, {"temperature": math.nan}, {"max_scale": math.inf}, {"positives": "all"}],
)
def test_values_without_meaning_are_refused(config, fields):
    with pytest.raises(SpecError, match=r"^.*$"):
        config(**fields)


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_the_bounds_themselves_are_allowed(temperature):
    module = InfoNCE(temperature=temperature).build()
    before = module.log_scale.detach().clone()
    module.clamp_()
    torch.testing.assert_close(module.log_scale.detach(), before)


@pytest.mark.slow
def test_the_menu_imports_no_torch():
    code = "import sys, contrastive.losses as m; m.InfoNCE(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Which execution


@pytest.mark.parametrize(
    ("n", "width", "dtype", "matmul_dtype", "on_gpu", "on_cpu"),
    [
        (1023, 512, torch.bfloat16, "fp32", "eager", "eager"),
        (5792, 512, torch.bfloat16, "fp32", "eager", "chunked"),
        (5793, 512, torch.bfloat16, "fp32", "fused", "chunked"),
        (5793, 512, torch.float32, "fp32", "chunked", "chunked"),
        (5793, 512, torch.float32, "auto", "chunked", "chunked"),
        (5793, 512, torch.float32, "bf16", "fused", "chunked"),
        (5793, 512, torch.float64, "bf16", "chunked", "chunked"),
        (5793, 4097, torch.float16, "fp32", "chunked", "chunked"),
    ],
)
def test_auto_goes_by_size_device_and_products(
    n, width, dtype, matmul_dtype, on_gpu, on_cpu, monkeypatch
):
    given = {"dtype": dtype, "matmul_dtype": matmul_dtype}
    monkeypatch.setattr(auto_execution, "HAS_TRITON", True)
    for device, expected in (("cuda", on_gpu), ("cpu", on_cpu)):
        assert auto_execution.choose("auto", n, n, width, device=device, **given) == expected
    monkeypatch.setattr(auto_execution, "HAS_TRITON", False)
    assert auto_execution.choose("auto", n, n, width, device="cuda", **given) != "fused"
    # who asks for it is told what is missing
    assert auto_execution.choose("fused", n, n, width, device="cuda", **given) == "fused"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_auto_multiplies_in_bf16_where_a_gpu_runs_in_bf16(dtype, monkeypatch):
    monkeypatch.setattr(auto_execution, "HAS_TRITON", True)
    loss, gpu = InfoNCE().build(), torch.device("cuda")
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)  # as torch.autocast, which asks for a GPU, does
    torch.set_autocast_dtype("cuda", dtype)
    try:
        found = loss.describe(32768, 32768, 512, torch.float32, gpu)
        on_cpu = loss.describe(32768, 32768, 512, torch.float32, torch.device("cpu"))
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)
    bf16 = dtype == torch.bfloat16
    assert found == ("fused, products in bf16" if bf16 else "chunked")
    assert on_cpu == "chunked"
    assert loss.describe(32768, 32768, 512, torch.float32, gpu) == "chunked"


def test_products_in_tf32_are_told():
    given = torch.float32, "auto", torch.device("cuda")
    auto_execution.check_precision(*given)  # silent: warnings are errors here
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.warns(
            UserWarning, match='in TF32, .* set "highest", or take matmul_dtype bf16'
        ):
            auto_execution.check_precision(*given)
        auto_execution.check_precision(torch.float32, "bf16", torch.device("cuda"))
        auto_execution.check_precision(torch.float32, "fp32", torch.device("cpu"))
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_model_says_which_execution_it_takes():
    def described(config, n):
        return config.build().describe(n, n, 4, torch.float32, torch.device("cpu"))

    for config in MODULES:
        assert described(config(), 8) == "eager"
        assert described(config(), 1024) == "chunked"
        assert described(config(execution="chunked"), 8) == "chunked"
