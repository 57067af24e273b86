"""Training by several ranks is the training of one; what is written is written once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist

from contrastive import RunSpec, build_model
from contrastive.distributed.ranks import Ranks
from contrastive.errors import ContrastiveError, DataError
from contrastive.features.cache import FeatureCache
from contrastive.reporting.run_log import read_log
from contrastive.training import checkpoints, parallel, recorder
from contrastive.training.batches import TrainingBatches
from contrastive.training.train import train
from tests.rank_agent import call_command, start_ranks
from tests.toys import toy_dict, toy_spec

PATIENCE = 600  # seconds until what hangs is given up; a run takes some


@pytest.fixture
def torchrun(tmp_path):
    """Start two ranks: ``torchrun(spec, run, "--resume")``; none outlives the test.

    ``signalled`` is a signal's name, a step, and who gets it: see ``tests.signalled``.
    """
    started = []

    def start(spec, run, *extra, signalled=()):
        path = tmp_path / "spec.yaml"
        path.write_text(json.dumps(spec))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        module = ["tests.signalled", *map(str, signalled)] if signalled else ["contrastive"]
        command += ["--nproc-per-node", "2", "-m", *module, "train", path]
        process = subprocess.Popen(
            [*command, "--output", run, *extra],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()  # torchrun ends those that it started
        process.communicate(timeout=PATIENCE)


def be_agent(folder, arguments):
    """Be what starts two ranks of the command line."""
    for stream, name in ((1, "out"), (2, "told")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_APPEND | os.O_WRONLY), stream)
    sys.argv = ["contrastive", "train", *arguments]
    os._exit(start_ranks(2, folder, lambda _: call_command()))


@pytest.fixture
def forked_ranks(forkserver, tmp_path):
    """Train as two ranks that need not import torch: ``forked_ranks(file, run, "--resume")``."""

    def run(spec, run, *extra):
        arguments = [str(spec), "--output", str(run), *extra]
        agent = forkserver.Process(target=be_agent, args=(tmp_path, arguments))
        agent.start()
        agent.join()
        return agent.exitcode, *((tmp_path / name).read_text() for name in ("out", "told"))

    return run


def steps(run):
    return [line for line in read_log(run / "log.jsonl") if "loss" in line]


def losses(run):
    return [line["loss"] for line in steps(run)]


def never_stopped(rank, size, spec, run):
    """Be a rank of a group of the caller's own."""
    store = f"file://{run}-store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    train(spec, run)
    dist.destroy_process_group()


def other_on_rank_1(rank, size, specs, resumes, folder):
    """Be a rank that was asked for something else than the other; leave what it says."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    told = ""
    sys.stderr = (folder / f"{rank}.err").open("w")
    try:
        train(specs[rank], folder / f"run-{rank}", resume=resumes[rank])
    except (ContrastiveError, SystemExit) as error:
        told = str(error)
    sys.stderr.close()
    (folder / f"{rank}.txt").write_text(told)


def ways_to_differ():
    """Return by name the two ranks' specs, --resume, and what rank 0 and rank 1 say."""
    fewer, other = {"images": 42}, {"images": 54}
    same_rows = "the ranks have different data or checkpoints: rank 0 has rows: "
    return {
        "a row fewer": ({}, fewer, False, same_rows),
        "another seed": ({}, {"seed": 1}, False, "rank 0 has training.seed: 0, rank 1 has 1"),
        "more steps": ({}, {"epochs": 9}, False, "rank 0 has training.epochs: 1, rank 1 has 9"),
        "resume": ({}, {}, True, "rank 0 has resume: False, rank 1 has True"),
        "other": (other, {"images": 54, "reverse": True}, False, "have different rows, or others"),
        "a stale file": ({}, {"stale": True}, False, "the files of the ranks hold different"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(how, marks=[pytest.mark.nightly] if how in ("more steps", "resume") else [])
        for how in ways_to_differ()
    ],
)
def test_ranks_that_differ_end_before_the_first_step(tmp_path, in_ranks, how):
    *different, resume, message = ways_to_differ()[how]
    specs = []
    for rank, given in enumerate(different):
        settings = dict(given)
        images, turned = settings.pop("images", 48), settings.pop("reverse", False)
        stale = settings.pop("stale", False)
        data = tmp_path / f"data-{rank}"
        specs.append(toy_dict(data, images=images, cache="off", **{"epochs": 1} | settings))
        if turned:
            path = data / "dataset_flickr30k.json"
            document = json.loads(path.read_text())
            document["images"].reverse()
            path.write_text(json.dumps(document))
        if stale:
            first, second, *_ = sorted((data / "flickr30k-images").iterdir())
            first.write_bytes(second.read_bytes())
    in_ranks(other_on_rank_1, 2, specs, [False, resume], tmp_path)
    assert message in (tmp_path / "0.txt").read_text()
    assert (tmp_path / "1.txt").read_text() == "2"  # said once
    assert not list(tmp_path.glob("run-*/log.jsonl"))


@pytest.mark.slow
def test_what_only_another_rank_lacks_is_told_by_it(tmp_path, in_ranks):
    spec = toy_dict(tmp_path / "data", epochs=1)
    (tmp_path / "run-1" / "checkpoints" / "step-00000001").mkdir(parents=True)
    in_ranks(other_on_rank_1, 2, [spec, spec], [False, False], tmp_path)
    assert "another rank of this run has ended" in (tmp_path / "0.txt").read_text()
    told = (tmp_path / "1.txt").read_text()
    assert told.startswith(f"rank 1: {tmp_path / 'run-1'}: holds a run already")


def without_memory_on_rank_1(rank, size, spec, folder):
    """Be a rank, the second of which has no memory left in its fourth step."""
    real, call = parallel.step_loss, [0]

    def step_loss(*args, **kwargs):
        call[0] += 1
        result = real(*args, **kwargs)
        if call[0] == 4 and rank == 1:
            torch.empty(2**50)
        return result

    parallel.step_loss = step_loss
    other_on_rank_1(rank, size, [spec, spec], [False, False], folder)


@pytest.mark.slow
def test_a_rank_without_memory_ends_all_and_the_steps_before_are_saved(tmp_path, in_ranks, capsys):
    spec = toy_dict(tmp_path / "data", epochs=1)
    in_ranks(without_memory_on_rank_1, 2, spec, tmp_path)
    lost, own = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert lost.startswith("another rank of this run has ended; its message, or torchrun's, says")
    assert lost.endswith("; saved at step 3; go on with resume=True (--resume)")
    assert own.startswith("rank 1: out of memory (")
    assert "a step of 8 rows takes about" in own
    assert (tmp_path / "run-0" / "checkpoints" / "step-00000003").is_dir()
    train(toy_spec(tmp_path / "data").model_validate(spec), tmp_path / "run-0", resume=True)
    assert "saved by 2 ranks, resumed by 1: the same batches" in capsys.readouterr().err


PLACES = {
    "encoding": (FeatureCache, "table", 1),
    "step": (parallel, "step_loss", 4),
    "backward": (torch.Tensor, "backward", 4),
    "save": (checkpoints, "write_folder", 1),
    "the other's save": (recorder.Recorder, "after_step", 4),
    "evaluation": (recorder, "evaluate", 1),
}
"""What a rank is killed in, at its so-manieth call."""


def killed(rank, size, spec, folder, victim, where):
    """Be a rank, one of which is killed."""
    owner, name, last = PLACES[where]
    real, calls = getattr(owner, name), []

    def stand_in(*args, **kwargs):
        calls.append(1)
        if len(calls) == last and rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, name, stand_in)
    other_on_rank_1(rank, size, [spec] * size, [False] * size, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "where", "size"),
    [
        (1, "step", 2),
        (0, "encoding", 2),
        (1, "evaluation", 2),
        pytest.param(0, "step", 4, marks=pytest.mark.nightly),
        pytest.param(1, "backward", 2, marks=pytest.mark.nightly),
        pytest.param(0, "save", 2, marks=pytest.mark.nightly),
        pytest.param(1, "the other's save", 2, marks=pytest.mark.nightly),
        pytest.param(3, "evaluation", 4, marks=pytest.mark.nightly),
    ],
)
def test_a_rank_that_is_killed_ends_all(tmp_path, in_ranks, victim, where, size):
    spec = toy_dict(tmp_path / "data", epochs=1)
    in_ranks(killed, size, spec, tmp_path, victim, where, killed=victim)
    for rank in {*range(size)} - {victim}:
        told = (tmp_path / f"{rank}.txt").read_text()
        if rank == 0:
            assert "another rank of this run has ended; its message, or torchrun's, says" in told
        else:
            assert told == "2"  # the main rank alone speaks; of its end, who started it knows
    saved = [path.name for path in tmp_path.glob("run-0/checkpoints/step-*")]
    done = 3 if where in ("step", "backward") else 4
    assert saved == ([f"step-{done:08d}"] if victim else [])


@pytest.mark.slow
def test_two_ranks_train_the_model_of_one_also_when_interrupted(
    tmp_path, torchrun, forked_ranks, in_ranks
):
    spec = toy_dict(tmp_path / "data", epochs=2, batch_size=15)  # one has a row more
    spec["model"]["towers"]["image"]["head"]["dropout"] = 0.0
    one, two, broken = (tmp_path / name for name in ("one", "two", "broken"))
    process = torchrun(spec, broken, signalled=("SIGTERM", 3, "parent"))
    _, told = process.communicate(timeout=PATIENCE)
    done = len(losses(broken))
    assert told.count(f"interrupted at step {done} of 8; saved; go on with resume=True") == 1
    assert (broken / "checkpoints" / f"step-{done:08d}").is_dir()
    assert done < 8
    code, out, told = forked_ranks(tmp_path / "spec.yaml", broken, "--resume")
    assert code == 0, told
    assert told.count(f"resumed at step {done} of 8") == 1
    assert told.count("pairs, 4 steps an epoch") == 1
    assert told.count("epoch 2: ") == 1
    assert out.count("saved: ") == 1  # beside what gloo prints, by both ranks at once
    assert f"saved: {broken / 'model'}" in out.splitlines()

    in_ranks(never_stopped, 2, spec, two)
    assert losses(broken) == losses(two)
    left, right = (load_file(run / "model" / "model.safetensors") for run in (two, broken))
    assert all(torch.equal(left[name], right[name]) for name in left | right)

    train(toy_spec(tmp_path / "data").model_validate(spec), one)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    for name in ("lr", "grad_norm", "accuracy", "log_scale"):
        assert [x[name] for x in steps(two)] == pytest.approx(
            [x[name] for x in steps(one)], rel=1e-3
        )


# by day without torchrun: test_what_only_another_rank_lacks_is_told_by_it
@pytest.mark.slow
@pytest.mark.nightly
def test_a_mistake_is_said_once_and_ends_all_ranks(tmp_path, torchrun):
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)
    process = torchrun(toy_dict(tmp_path / "data"), run)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode
    assert told.count("holds a run already; go on with resume=True") == 1
    assert told.count("another rank of this run has ended") == 0


def test_every_row_of_a_batch_goes_to_one_process():
    for size, rows in ((1, 5), (2, 15), (4, 16), (5, 7), (3, 3)):
        shards = [Ranks(rank, size).shard(list(range(rows))) for rank in range(size)]
        assert [row for shard in shards for row in shard] == list(range(rows))
        assert max(map(len, shards)) - min(map(len, shards)) <= 1
        assert min(map(len, shards)) > 0


def test_a_step_has_the_same_rows_whatever_the_ranks_and_workers_and_where_it_begins(tmp_path):
    spec = toy_dict(tmp_path / "data", batch_size=15, cache="off")
    spec["model"]["towers"]["image"]["encoder"] = {"type": "resnet", "width": 4, "image_size": 16}
    spec["model"]["towers"]["image"]["encoder"]["augment"] = "crop-flip"
    run = RunSpec.model_validate(spec)
    samples, model = run.data.build("train", purpose="training"), build_model(run.model)

    def global_steps(size, workers, start):
        settings = run.training.model_copy(update={"workers": workers})
        ranks = [
            TrainingBatches(samples, model, settings, Ranks(rank, size), cache=None)
            for rank in range(size)
        ]
        for shards in zip(*(rank.iterate(start, 9) for rank in ranks), strict=True):
            images = [x for s in shards for x in s.inputs["image"][0].values()]
            yield [source for s in shards for source in s.sources], torch.cat(images)

    expected = list(global_steps(1, 0, 0))
    assert len({str(sources) for sources, _ in expected}) == 9
    for size, workers, start in ((1, 2, 0), (2, 0, 3), (2, 2, 6), (4, 0, 0), (4, 2, 5)):
        found = list(global_steps(size, workers, start))
        assert [sources for sources, _ in found] == [sources for sources, _ in expected[start:]]
        for (_, images), (_, same) in zip(found, expected[start:], strict=True):
            assert torch.equal(images, same)


def test_a_batch_that_is_too_small_for_the_ranks_is_refused(tmp_path):
    spec = toy_spec(tmp_path / "data", batch_size=16)
    samples = spec.data.build("train", purpose="training")
    message = "a batch of 16 is too small for 17 ranks; raise training.batch_size or start"
    with pytest.raises(DataError, match=message):
        TrainingBatches(samples, build_model(spec), spec.training, Ranks(0, 17), cache=None)


def test_dropout_differs_between_ranks_and_follows_from_the_step():
    def drawn(rank, step):
        Ranks(rank, 2).seed_dropout(7, step)
        return torch.rand(4)

    with torch.random.fork_rng():
        assert torch.equal(drawn(1, 3), drawn(1, 3))
        assert not torch.equal(drawn(0, 3), drawn(1, 3))
        assert not torch.equal(drawn(1, 3), drawn(1, 4))
        before = torch.get_rng_state()
        Ranks().seed_dropout(7, 3)
        assert torch.equal(torch.get_rng_state(), before), "one process keeps its generator"
