"""Distillation: the KL divergence from a teacher's rows, beside another loss."""

from __future__ import annotations

import pytest
import torch

from contrastive import RunSpec, build_model, load_model
from contrastive.errors import TrainingError
from contrastive.losses import Distillation, InfoNCE
from contrastive.losses.distillation import distillation
from contrastive.training.train import train
from tests.pair_losses import scalar, unit
from tests.row_losses import SHAPES, assert_same, gradients, leaves, run_spec, slow_distillation
from tests.toys import toy_dict


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_distillation_is_that_of_the_loops(shape):
    n, m, _ = shape
    inputs = leaves(*shape)
    teacher = unit(n, 3, seed=2), unit(m, 3, seed=3)
    how = {"log_scale": inputs[2], "teacher_log_scale": torch.tensor(2.0, dtype=torch.float64)}
    value, true = (f(*inputs[:2], *teacher, **how) for f in (distillation, slow_distillation))
    assert_same(value, true, inputs)
    assert torch.autograd.gradcheck(
        lambda a, b, s: distillation(a, b, *teacher, **how | {"log_scale": s}), inputs
    )


def test_a_student_that_agrees_with_its_teacher_is_left_alone():
    inputs = leaves(6, 5, 4)
    a, b, s = inputs
    loss = distillation(a, b, a, b, log_scale=s, teacher_log_scale=s)
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert all(g.abs().max() < 1e-14 for g in gradients(loss, inputs))


def test_the_teacher_gets_no_gradient():
    a, b, s = leaves(6, 5, 4)
    teacher = unit(6, 3).requires_grad_(), unit(5, 3).requires_grad_()
    loss = distillation(a, b, *teacher, log_scale=s, teacher_log_scale=scalar(1.0))
    assert torch.autograd.grad(loss, teacher, allow_unused=True) == (None, None)


def test_the_weight_is_the_share_of_the_teacher():
    a, b, ids = unit(6, 4), unit(6, 4, seed=1), torch.tensor([0, 0, 1, 2, 3, 4])
    teacher = {"teacher_a": unit(6, 3, seed=2), "teacher_b": unit(6, 3, seed=3)}
    inner, _ = InfoNCE().build()(a, b, ids)
    for weight in (0.0, 0.3, 1.0):
        module = Distillation(loss=InfoNCE(), weight=weight, teacher_temperature=0.1).build()
        loss, figures = module(a, b, ids, **teacher)
        kl = distillation(
            a,
            b,
            *teacher.values(),
            log_scale=module.log_scale,
            teacher_log_scale=scalar(10.0).log(),
        )
        torch.testing.assert_close(loss, (1 - weight) * inner + weight * kl, rtol=1e-6, atol=0)
        torch.testing.assert_close(figures["distillation"], kl.detach(), rtol=1e-6, atol=0)


def test_without_a_teacher_the_line_says_what_to_give():
    module = Distillation(loss=InfoNCE()).build()
    with pytest.raises(TrainingError) as caught:
        module(unit(3, 4), unit(3, 4))
    assert str(caught.value) == (
        "distillation needs the teacher's embeddings of each batch: call the loss with teacher_a= "
        "and teacher_b=, in a training loop of your own"
    )
    with pytest.raises(ValueError, match=r"have \(2, 3\) rows for \(3, 3\) embeddings"):
        module(unit(3, 4), unit(3, 4), teacher_a=unit(2, 4), teacher_b=unit(3, 4))


def test_a_model_learns_from_a_teacher_in_a_loop_of_ones_own(tmp_path):
    spec = run_spec(tmp_path, Distillation(loss=InfoNCE(), weight=1.0))
    torch.manual_seed(0)
    model = build_model(spec)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    texts = [f"a picture of {what}" for what in ("a dog", "a cat", "two men", "a red bus")]
    tower = model.tower("text")
    teacher = unit(4, 12, dtype=torch.float32)
    found = []
    for _ in range(30):
        text = tower(**tower.encoder.preprocess(texts))
        loss, figures = model.loss(text, text, teacher_a=teacher, teacher_b=teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.loss.clamp_()
        found.append(figures["distillation"].item())
    assert found[-1] < found[0]
    model.save(tmp_path / "saved")
    assert torch.equal(load_model(tmp_path / "saved").loss.log_scale, model.loss.log_scale)


def test_a_run_has_no_teacher(tmp_path):
    loss = {"type": "distillation", "loss": {"type": "infonce"}}
    spec = toy_dict(tmp_path / "data")
    spec["model"]["loss"] = loss
    with pytest.raises(TrainingError, match="distillation needs a teacher's embeddings"):
        train(RunSpec.model_validate(spec), tmp_path / "run")
    assert not (tmp_path / "run").exists()
