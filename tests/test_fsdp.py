"""A run whose ranks hold shards of the weights (FSDP2) is that of one rank, and goes on as any."""

import json
import resource
import shutil
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch import nn

from contrastive import load_model
from contrastive.encoders import TextTransformer
from contrastive.encoders.image_transform import ImageModule
from contrastive.errors import SpecError, TrainingError, WeightsError
from contrastive.model import sharded_files
from contrastive.model.run_checkpoints import checkpoint_folder, checkpoints_of
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
    "LoRA, accumulated": ({"image": LORA}, {"accumulate": 2, "batch_size": 7}),
    "cached gradients, recomputed": (
        {"image": {"encoder": VIT, "frozen": "none"}},
        # of 8 and 7 rows, in two passes and one
        {"micro_batch": 7, "checkpoint_activations": ["image"]},
    ),
}


def specs_in(folder, *, images=36, **training):
    toy, specs = toy_dict(folder / "data", images=images, epochs=2, batch_size=15), {}
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
    specs = specs_in(tmp_path, images=225, epochs=5)
    for spec in specs.values():
        spec["evaluation"] = {"split": None}
    check_losses(specs, tmp_path, in_ranks, [2, 4])
    assert all(len(losses(tmp_path / "1" / name)) >= 100 for name in specs)


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

    read_shards(place, shard_files(place), into)
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
    unlisted = place / min(shard_files(place)).replace("1", "3", 1)
    shutil.copy(place / min(shard_files(place)), unlisted)
    (place / "notes.safetensors").write_bytes(b"not in the manifest")
    converted = load_model(place)
    unlisted.unlink()
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
    with pytest.raises(WeightsError, match=r"cannot be read|no shard|, not "):
        load_model(place)


def test_an_empty_shard_does_not_say_how_large_a_tensor_is(tmp_path):
    place = {"DCP_SHARDING_INFO": json.dumps({"w": {"saved_offsets": [10**11, 0]}})}
    file = tmp_path / "shard-00001-model-00001-of-00001.safetensors"
    save_file({"w": torch.empty(0, 4)}, file, metadata=place)
    asked = []
    with pytest.raises(WeightsError, match="w has no shard with row 0"):
        read_shards(tmp_path, shard_files(tmp_path), lambda *about: asked.append(about))
    assert not asked


class Foreign(TextTransformer):
    """An encoder of another package, which may use a weight where its block is not called.

    It has weights of all kinds: tied, transposed, empty, a scalar, in double precision.
    """

    reaches: bool = False

    def build(self):
        module = super().build()
        first, second = module.blocks
        second.linear2.bias = first.linear2.bias
        module.again = module.norm
        first.linear1.weight = nn.Parameter(first.linear1.weight.detach().t().contiguous().t())
        module.odd = nn.ParameterList([torch.zeros(0, 8), torch.ones(()), torch.ones(8).double()])
        module.norm.register_forward_hook(
            lambda _, __, x: x * module.odd[1] + module.odd[0].sum() + module.odd[2].float()
        )
        if self.reaches:
            module.norm.register_forward_hook(lambda _, __, x: x @ first.linear1.weight[:8])
        return module


def foreign_in_rank(rank, size, specs, folder):
    """Be a rank that trains each spec; the main one leaves what each has told."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    told = []
    for number, spec in enumerate(specs):
        try:
            train(spec, folder / str(number))
            told.append("")
        except (SpecError, SystemExit) as error:
            told.append(str(error))
    if rank == 0:
        (folder / "told").write_text(json.dumps(told))
    dist.destroy_process_group()


@pytest.mark.nightly
def test_encoders_of_others_are_sharded_or_told_in_one_line(tmp_path, in_ranks):
    toy = toy_dict(tmp_path / "data", images=18, epochs=2, batch_size=15)
    toy["evaluation"] = {"split": None}
    specs = []
    for reaches, strategy in ((False, "fsdp"), (True, "fsdp"), (True, "ddp")):
        spec = deepcopy(toy)
        encoder = {"type": "tests.test_fsdp:Foreign", "width": 8, "heads": 2, "depth": 2}
        encoder |= {"dropout": 0.0, "reaches": reaches}
        spec["model"]["towers"]["text"]["encoder"] = encoder
        spec["model"]["towers"]["image"]["head"]["dropout"] = 0.0
        spec["training"]["parallel"] = {"strategy": strategy}
        specs.append(spec)
    train(specs[0], tmp_path / "one")
    losses_of_one = losses(tmp_path / "one")
    in_ranks(foreign_in_rank, 2, specs, tmp_path / "a")
    sharded, reaching, as_told = json.loads((tmp_path / "a" / "told").read_text())
    assert not sharded
    assert losses(tmp_path / "a" / "0") == pytest.approx(losses_of_one, rel=1e-5)
    assert reaching == (
        "training.parallel.strategy: fsdp gathers the weights of a block when that is called, and "
        "the text encoder uses some elsewhere; set it to ddp"
    )
    assert not as_told


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


@pytest.mark.nightly
@pytest.mark.parametrize("at", [0, 2])
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


def test_a_step_whose_shards_are_written_is_saved_when_a_rank_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "has_shards", lambda _: True)
    alone = recorder.Recorder(tmp_path, *[None] * 7, [])
    checkpoint_folder(tmp_path, 2).mkdir(parents=True)
    alone.save_once(None, 2)
    with pytest.raises(TrainingError, match="goes on from its last checkpoint"):
        alone.save_once(None, 3)


def elsewhere_in_rank(rank, size, spec, place, folder):
    """Be a rank; the second sees another disk under the run's path."""
    if rank == 1:
        sharded_files.Path = lambda path: Path(path.replace("/run/", "/elsewhere/"))
    failing_in_rank(rank, size, spec, place, folder, None)


@pytest.mark.nightly
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


@pytest.mark.nightly
def test_an_evaluation_that_fails_on_one_rank_costs_no_step(tmp_path, in_ranks):
    spec = specs_in(tmp_path)["trained"]
    in_ranks(trained_in_rank, 2, [(spec, tmp_path / "whole", False)], tmp_path / "a")
    in_ranks(unmeasured_in_rank, 2, spec, tmp_path / "run", tmp_path / "b")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["not_measured"] for line in lines if "not_measured" in line]
    assert len(evaluations(tmp_path / "run")) == len(evaluations(tmp_path / "whole")) - 1
