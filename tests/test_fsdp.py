"""A run whose ranks hold shards of the weights (FSDP2) is that of one rank, and goes on as any."""

import json
import resource
import shutil
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist

from contrastive import load_model
from contrastive.encoders.image_transform import ImageModule
from contrastive.errors import TrainingError, WeightsError
from contrastive.model import sharded_files
from contrastive.model.run_checkpoints import checkpoints_of
from contrastive.model.sharded_files import read_shards, shard_files
from contrastive.reporting.run_log import read_log
from contrastive.training import recorder
from contrastive.training.train import train
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

VIT = {"type": "vit", "image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
FEW = 6  # steps
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
    folder.mkdir(exist_ok=True)
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


def evaluations(run):
    return [line for line in read_log(run / "log.jsonl") if "evaluation" in line]


def check_losses(specs, folder, in_ranks, sizes):
    for size in sizes:
        runs = [(spec, folder / f"{size}" / name, False) for name, spec in specs.items()]
        in_ranks(trained_in_rank, size, runs, folder / f"ranks-{size}")
    for name, spec in specs.items():
        one = train(spec, folder / "1" / name).state_dict()
        expected = losses(folder / "1" / name)
        # rounding grows in a ResNet that trains (test_parallel)
        within = 5e-2 if len(expected) > FEW and "BatchNorm" in name else 1e-5
        for size in sizes:
            run = folder / f"{size}" / name
            assert losses(run) == pytest.approx(expected, rel=within), name
            state = load_model(run).state_dict()
            if len(expected) == FEW:
                for key, x in one.items():
                    torch.testing.assert_close(state[key], x.cpu(), rtol=1e-3, atol=1e-4)


def test_the_losses_of_two_ranks_are_those_of_one(tmp_path, in_ranks):
    check_losses(specs_in(tmp_path), tmp_path, in_ranks, [2])


@pytest.mark.nightly
def test_the_losses_of_100_steps_are_those_of_one(tmp_path, in_ranks):
    specs = specs_in(tmp_path, epochs=100)
    for spec in specs.values():
        spec["evaluation"] = {"split": None}
    check_losses(specs, tmp_path, in_ranks, [2, 4])


def bits(run):
    """Return all tensors of the newest checkpoint, by name, whatever its form."""
    place = checkpoints_of(run)[-1]
    found = {}
    for name in ("model.safetensors", "optimizer.safetensors", "random.safetensors"):
        found |= {f"{name} {key}": x for key, x in load_file(place / name).items()}
    keep = {}

    def into(name, shape, dtype):
        keep[name] = torch.empty(shape, dtype=dtype)
        return keep[name]

    read_shards(place, into)
    return found | keep


def stopped_in_rank(rank, size, spec, place, folder):
    """Be a rank of a run that ends after its third step."""
    real = recorder.Recorder.after_step

    def after_step(self, step_log, done, *, stop):
        real(self, step_log, done, stop=stop)
        if done == 3:
            raise KeyboardInterrupt

    recorder.Recorder.after_step = after_step
    with suppress(KeyboardInterrupt):
        trained_in_rank(rank, size, [(spec, place, False)], folder)


def test_a_run_goes_on_from_shards_on_as_many_ranks_and_on_others(tmp_path, in_ranks):
    spec = specs_in(tmp_path, checkpoint_every=1)["trained"]
    spec["evaluation"] = {"split": None}
    in_ranks(trained_in_rank, 2, [(spec, tmp_path / "whole", False)], tmp_path / "a")
    in_ranks(stopped_in_rank, 2, spec, tmp_path / "same", tmp_path / "b")
    shards = shard_files(checkpoints_of(tmp_path / "same")[-1])
    assert len(shards) == 2
    for name in ("one", "three", "ddp"):
        shutil.copytree(tmp_path / "same", tmp_path / name)
    in_ranks(trained_in_rank, 2, [(spec, tmp_path / "same", True)], tmp_path / "c")
    same, whole = bits(tmp_path / "same"), bits(tmp_path / "whole")
    assert same.keys() == whole.keys()
    assert all(torch.equal(same[name], whole[name]) for name in whole)
    assert any("exp_avg" in name and "|" in name for name in whole)

    other = deepcopy(spec)
    other["training"]["parallel"] = {"strategy": "ddp"}
    in_ranks(trained_in_rank, 3, [(spec, tmp_path / "three", True)], tmp_path / "d")
    in_ranks(trained_in_rank, 2, [(other, tmp_path / "ddp", True)], tmp_path / "e")
    train(spec, tmp_path / "one", resume=True)
    for name in ("one", "three", "ddp"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "whole"), rel=1e-5), name
    assert not shard_files(checkpoints_of(tmp_path / "one")[-1])  # now in one-file form


def test_a_checkpoint_in_shards_is_a_model_and_converts_to_one_file(tmp_path, in_ranks):
    spec = specs_in(tmp_path, checkpoint_every=1)["trained"]
    spec["evaluation"] = {"split": None}
    in_ranks(trained_in_rank, 2, [(spec, tmp_path / "run", False)], tmp_path / "a")
    place = checkpoints_of(tmp_path / "run")[-1]
    converted = load_model(place)
    converted.save(tmp_path / "one")
    assert not shard_files(tmp_path / "one")
    final = load_file(tmp_path / "run" / "model" / "model.safetensors")
    one = load_file(tmp_path / "one" / "model.safetensors")
    assert final.keys() == one.keys()
    assert all(torch.equal(final[name], one[name]) for name in final)

    shard = place / min(shard_files(place))
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-8])
    with pytest.raises(WeightsError, match=r"shard-00001-.*damaged"):
        load_model(place)
    shard.write_bytes(raw)
    other = place / max(shard_files(place))
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["files"][other.name]
    (place / "manifest.json").write_text(json.dumps(manifest))
    other.unlink()
    with pytest.raises(WeightsError, match=r"cannot be read|size mismatch"):
        load_model(place)


def failing_in_rank(rank, size, spec, place, folder, at):
    """Be a rank; the second cannot write its files from a step on; leave what is told."""
    real = recorder.Recorder.after_step

    def full():
        if rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    def after_step(self, step_log, done, *, stop):
        real(self, step_log, done, stop=stop)
        if done == at:
            full()

    recorder.Recorder.after_step = after_step
    if at == 0:
        full()
    told = ""
    try:
        trained_in_rank(rank, size, [(spec, place, False)], folder)
    except (TrainingError, SystemExit) as error:
        told = str(error)
    if rank == 0:
        (folder / "told").write_text(told)
    dist.destroy_process_group()


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.nightly), 2])
def test_a_rank_that_cannot_write_its_shard_costs_no_checkpoint(tmp_path, in_ranks, at):
    spec = specs_in(tmp_path, checkpoint_every=1)["trained"]
    spec["evaluation"] = {"split": None}
    run = tmp_path / "run"
    in_ranks(failing_in_rank, 2, spec, run, tmp_path / "a", at)
    told = (tmp_path / "a" / "told").read_text()
    assert "rank 1" in told
    assert "File too large" in told
    assert "\n" not in told
    kept = checkpoints_of(run)
    assert [place.name for place in kept[-1:]] == ([f"step-{at:08d}"] if at else [])
    left = {path.name for path in (run / "checkpoints").glob("*")} if at else set()
    assert left == {place.name for place in kept}, "nothing half written stays"
    if at:
        in_ranks(trained_in_rank, 2, [(spec, run, True)], tmp_path / "b")
        assert len(losses(run)) == 6


def elsewhere_in_rank(rank, size, spec, place, folder):
    """Be a rank; the second sees another disk under the run's path."""
    if rank == 1:
        sharded_files.Path = lambda path: Path(path.replace("/run/", "/elsewhere/"))
    failing_in_rank(rank, size, spec, place, folder, None)


def test_ranks_with_disks_of_their_own_are_told_before_the_first_step(tmp_path, in_ranks):
    spec = specs_in(tmp_path)["trained"]
    in_ranks(elsewhere_in_rank, 2, spec, tmp_path / "run", tmp_path / "a")
    told = (tmp_path / "a" / "told").read_text()
    assert "rank 1 has it on a disk of its own" in told
    assert "put it on a disk that they share" in told
    assert not losses(tmp_path / "run")
    assert not list((tmp_path / "elsewhere").rglob("*.safetensors"))


def unmeasured_in_rank(rank, size, spec, place, folder):
    """Be a rank; in one evaluation the first fails within a pass of a sharded encoder."""
    passes = []
    real = ImageModule.forward

    def forward(self, **inputs):
        found = real(self, **inputs)
        passes.append(self.training)
        if rank == 0 and not self.training and passes.count(True) == 3:
            msg = "a cosmic ray"
            raise RuntimeError(msg)
        return found

    ImageModule.forward = forward
    trained_in_rank(rank, size, [(spec, place, False)], folder)


def test_an_evaluation_that_fails_on_one_rank_costs_no_step(tmp_path, in_ranks):
    spec = specs_in(tmp_path)["trained"]
    in_ranks(trained_in_rank, 2, [(spec, tmp_path / "whole", False)], tmp_path / "a")
    in_ranks(unmeasured_in_rank, 2, spec, tmp_path / "run", tmp_path / "b")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["not_measured"] for line in lines if "not_measured" in line]
    assert len(evaluations(tmp_path / "run")) == len(evaluations(tmp_path / "whole")) - 1
