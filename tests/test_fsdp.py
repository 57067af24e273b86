"""A run whose ranks hold shards of the weights (FSDP2) is the run of one rank, and goes on as any."""

from copy import deepcopy

import pytest
import torch
from torch import distributed as dist

from contrastive import load_model
from contrastive.reporting.run_log import read_log
from contrastive.training.train import train
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

VIT = {"type": "vit", "image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
RESNET = {"type": "resnet", "width": 4, "image_size": 32}
LORA = {"encoder": VIT, "frozen": "encoder", "lora": {"rank": 2}}
CASES = {
    "trained": ({"image": {"encoder": VIT, "frozen": "none"}, "text": {"frozen": "none"}}, {}),
    "trained BatchNorm": ({"image": {"encoder": RESNET, "frozen": "none"}}, {"lr": 1e-4}),
    "LoRA, accumulated": ({"image": LORA}, {"accumulate": 2, "batch_size": 7, "epochs": 6}),
    "cached gradients, recomputed": (
        {"image": {"encoder": VIT, "frozen": "none"}},
        {"micro_batch": 3, "checkpoint_activations": ["image"]},
    ),
}


def specs_in(folder, **training):
    toy, specs = toy_dict(folder / "data", images=18, epochs=6, batch_size=15), {}
    for name, (towers, more) in CASES.items():
        spec = specs[name] = deepcopy(toy)
        for modality, fields in towers.items():
            spec["model"]["towers"][modality] |= fields
        spec["model"]["towers"]["image"]["head"]["dropout"] = 0.0
        spec["training"] |= {"lr": 1e-3, "parallel": {"strategy": "fsdp"}} | more | training
        spec["evaluation"] = {"split": "val"}
    return specs


def trained_in_rank(rank, size, runs, folder):
    """Be a rank that trains each spec in a folder, once it has found the others."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size
    )
    for spec, place, resume in runs:
        train(spec, place, resume=resume)
    dist.destroy_process_group()
    if rank == 0:
        (folder / "store").unlink(missing_ok=True)


def losses(run):
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


def recalls(run):
    return [line["recall"] for line in read_log(run / "log.jsonl") if "recall" in line]


def test_the_losses_of_two_ranks_are_those_of_one(tmp_path, in_ranks):
    specs = specs_in(tmp_path)
    in_ranks(
        trained_in_rank, 2, [(s, tmp_path / "2" / n, False) for n, s in specs.items()], tmp_path
    )
    for name, spec in specs.items():
        one = train(spec, tmp_path / "1" / name)
        run = tmp_path / "2" / name
        assert losses(run) == pytest.approx(losses(tmp_path / "1" / name), rel=1e-5), name
        state = load_model(run).state_dict()
        for key, x in one.state_dict().items():
            torch.testing.assert_close(state[key], x.cpu(), rtol=1e-3, atol=1e-4)
