"""What fails on the main rank's disk ends all ranks with one line; the last checkpoint stays."""

import errno
import json
import os
import sys

import pytest
from torch import distributed as dist

from contrastive.errors import ContrastiveError
from contrastive.training.run_folder import locked_run_folder
from tests.crashing_run import Training
from tests.file_operations import Operations, fail
from tests.test_ranks import other_on_rank_1
from tests.toys import toy_dict

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


def on_a_disk(rank, size, folder, how, at):
    """Be a rank; from one of its file operations on, all of the main one fail."""
    store = f"file://{folder}/store-{how}-{at}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    work, told = Training(1), ""
    if rank == 0 and how:
        count = Operations(folder / "run", fail(getattr(errno, how)), at, every=True)
    elif rank == 0:
        count = Operations(folder / "run", lambda: None)
    try:
        work(folder)
    except (ContrastiveError, SystemExit) as error:
        told = str(error)
    if rank == 0:
        (folder / "operations.json").write_text(json.dumps(count.names))
    (folder / f"{rank}.txt").write_text(told)


def resumed(rank, size, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    Training(1).again(folder)


SAVE = 2
"""The checkpoint in which the disk fails; each step is one."""


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("ENOSPC", "write"),
        pytest.param("EDQUOT", "fsync", marks=pytest.mark.nightly),
        pytest.param("EROFS", "open", marks=pytest.mark.nightly),
        pytest.param("ENOSPC", "os.rename", marks=pytest.mark.nightly),
    ],
)
def test_a_disk_that_fails_ends_all_ranks_in_one_line(tmp_path, in_ranks, how, part):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    in_ranks(on_a_disk, 2, whole, "", -1)
    names = json.loads((whole / "operations.json").read_text())
    at = next(
        i
        for i, name in enumerate(names)
        if name.startswith(f"{part} ") and f"step-{SAVE:08d}" in name
    )
    in_ranks(on_a_disk, 2, broken, how, at)
    main, other = ((broken / f"{rank}.txt").read_text() for rank in range(2))
    assert os.strerror(getattr(errno, how)) in main
    assert "\n" not in main
    assert other == "2"
    kept = sorted(path.name for path in (broken / "run" / "checkpoints").glob("step-*"))
    assert kept == [f"step-{step:08d}" for step in range(1, SAVE)]
    in_ranks(resumed, 2, broken)
    work = Training(1)
    for part in ("log", "tensors"):
        assert work.outcome(broken)[part] == work.outcome(whole)[part]


def test_ranks_leave_a_folder_to_the_run_that_is_there(tmp_path, in_ranks):
    spec = toy_dict(tmp_path / "data", epochs=1)
    with locked_run_folder(tmp_path / "run-0"):
        in_ranks(other_on_rank_1, 2, [spec, spec], [False, False], tmp_path)
    line = "another process is training here; choose another output"
    assert (tmp_path / "0.txt").read_text() == f"{tmp_path / 'run-0'}: {line}"
    assert (tmp_path / "1.txt").read_text() == "2"
