"""Every loss but the first two keeps the contract: specs, metrics, parameters, training."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn.functional import normalize

from contrastive import load_model
from contrastive.config import yaml_files as files
from contrastive.errors import SpecError
from contrastive.features.cache import FeatureCache
from contrastive.losses import (
    DCL,
    Distillation,
    HardNegative,
    InfoNCE,
    Matryoshka,
    Queue,
    Sigmoid,
    SupCon,
)
from contrastive.losses.functional import similarity
from contrastive.reporting.run_log import read_log
from contrastive.training.train import train
from tests.pair_losses import unit
from tests.row_losses import CONFIGS, Holder, call, config_names, run_spec


@config_names
def test_specs_survive_a_round_trip(name, tmp_path):
    spec = Holder(loss=CONFIGS[name])
    assert Holder.model_validate(spec.model_dump()) == spec
    assert Holder.model_validate_json(spec.model_dump_json()) == spec
    path = tmp_path / "spec.yaml"
    path.write_text(files.dump_spec(spec), encoding="utf-8")
    assert files.load_spec(Holder, path) == spec


@config_names
def test_modules_keep_the_contract(name):
    module = CONFIGS[name].build()
    a, b = (unit(6, 8, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    ids = torch.tensor([0, 0, 1, 2, 3, 4])
    for _ in range(3):
        loss, figures = call(module, a, b, ids)
        loss.backward()
    assert loss.dim() == 0
    assert loss.dtype == torch.float32
    assert a.grad.isfinite().all()
    assert all(f.dim() == 0 and not f.requires_grad for f in figures.values())
    assert figures["collisions"] == 2
    assert figures["log_scale"] == module.log_scale
    assert module.describe(len(a), len(b), a.shape[1], a.dtype, a.device) in {"eager", "chunked"}
    torch.testing.assert_close(
        module.logits(a, b), similarity(a, b, log_scale=module.log_scale, bias=figures.get("bias"))
    )
    log_scales_of = [key for key in module.state_dict() if key.endswith("log_scale")]
    assert len(log_scales_of) == 1
    assert len([*module.parameters()]) == len({id(p) for p in module.parameters()})
    before = {name: float(figure) for name, figure in figures.items()}
    with torch.no_grad():
        module.log_scale.fill_(9.0)
    assert before == {name: float(figure) for name, figure in figures.items()}
    module.clamp_()
    assert module.log_scale.item() == pytest.approx(
        math.log(50 if "one-way" in name and "hard" in name else 100)
    )


@config_names
def test_autocast_does_not_change_the_modules(name):
    half = [unit(6, 8, seed=s).bfloat16() for s in (0, 1)]
    module = CONFIGS[name].build()
    other = copy.deepcopy(module)
    for _ in range(2):
        plain, _ = call(module, *(x.float() for x in half), torch.arange(6))
        with torch.autocast("cpu", torch.bfloat16):
            cast, _ = call(other, *half, torch.arange(6))
    torch.testing.assert_close(cast, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@config_names
def test_training_separates_the_pairs(name):
    module = CONFIGS[name].build()
    a, b = (unit(16, 8, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    optimizer = torch.optim.Adam([a, b, *module.parameters()], lr=0.1)
    teacher = unit(16, 8, seed=2, dtype=torch.float32)
    rest = (
        {"teacher_a": teacher, "teacher_b": teacher}
        if isinstance(CONFIGS[name], Distillation)
        else {}
    )
    for _ in range(60):
        optimizer.zero_grad()
        x, y = normalize(a, dim=1), normalize(b, dim=1)
        loss, _ = module(x, y, torch.arange(16), **rest)
        loss.backward()
        optimizer.step()
        module.clamp_()
    assert torch.equal((x @ y.T).argmax(1), torch.arange(16))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ("{type: hard-negative, beta: -1}", "beta"),
        ("{type: hard-negative, tau_plus: 1}", "tau_plus"),
        ("{type: dcl, sigma: 0}", "sigma"),
        ("{type: hard-negative, execution: fused}", "execution"),
        ("{type: matryoshka, loss: {type: infonce}, widths: []}", "widths"),
        ("{type: matryoshka, loss: {type: infonce}, widths: [8, 8]}", "name one twice"),
        (
            "{type: matryoshka, loss: {type: infonce}, widths: [8, 4], weights: [1]}",
            "1 weights for 2 widths; give one for each",
        ),
        (
            "{type: matryoshka, loss: {type: distillation, loss: {type: infonce}}, widths: [4]}",
            "matryoshka cannot hold distillation: put distillation around matryoshka",
        ),
        (
            "{type: matryoshka, loss: {type: queue, size: 4, loss: {type: matryoshka, widths: [2], "
            "loss: {type: infonce}}}, widths: [4]}",
            "matryoshka cannot hold matryoshka: one matryoshka is enough",
        ),
        (
            "{type: queue, size: 4, loss: {type: queue, size: 4, loss: {type: infonce}}}",
            "queue cannot hold queue: one queue is enough",
        ),
        (
            "{type: queue, size: 4, loss: {type: matryoshka, widths: [4], loss: {type: supcon}}}",
            "queue cannot hold supcon: it has no direction; use infonce",
        ),
        ("{type: queue, loss: {type: infonce}, size: -1}", "size"),
    ],
)
def test_mistakes_are_one_line(fields, line, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(f"loss: {fields}\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        files.load_spec(Holder, path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


TRAINED = {
    "dcl": DCL(learn_temperature=True, sigma=0.5),
    "hard-negative": HardNegative(beta=0.5, tau_plus=0.001),
    "supcon": SupCon(),
    "matryoshka": Matryoshka(loss=InfoNCE(), widths=(8, 32)),
    "queue": Queue(loss=Matryoshka(loss=Sigmoid(), widths=(8, 32)), size=40),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_model_trains_with_each_and_loads_its_parameters(name, tmp_path):
    spec = run_spec(tmp_path, TRAINED[name], epochs=4)
    model = train(spec, tmp_path / "run", cache=FeatureCache(tmp_path / "cache"))
    log = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert all(math.isfinite(line["loss"]) for line in log)
    if name == "queue":
        assert [line["queue"] for line in log[:4]] == [0, 16, 32, 40]
    else:
        assert log[-1]["loss"] < log[0]["loss"]
    loaded = load_model(tmp_path / "run")
    assert loaded.spec == model.spec
    state, found = model.loss.state_dict(), loaded.loss.state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(state[key], found[key]) for key in state)
    assert loaded.scale != pytest.approx(TRAINED[name].build().log_scale.exp().item(), rel=1e-6)
