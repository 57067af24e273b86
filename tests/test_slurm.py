"""The scripts of examples/slurm, with stand-ins for SLURM's commands: what they run and requeue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "examples" / "slurm"
STAND_INS = {
    # the step: says what it was asked for; ends by itself, or when the job's script has a signal
    "srun": """
trap 'echo forwarded >> said; exit $CODE' USR1
echo "$MASTER_ADDR:$MASTER_PORT $WORLD_SIZE: $*" >> said
[ -n "$WAITS" ] || exit $CODE
echo waiting
for i in {1..600}; do sleep 0.05; done
""",
    "scontrol": """
case "$1 $2" in
  "show hostnames") printf 'n1\\nn2\\n' ;;
  "show job") echo "   $PREEMPT" ;;
  *) echo "scontrol $*" >> said ;;
esac
""",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32" or not shutil.which("bash"), reason="scripts of bash"
    ),
]


@pytest.fixture
def submitted(tmp_path):
    """Run a script as SLURM would; return its exit code and what the commands were asked."""
    for name, text in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)

    def run(script, *, code=0, signalled=False, preempt="PreemptTime=None"):
        (tmp_path / "said").unlink(missing_ok=True)
        job = {"SLURM_JOB_ID": "412", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
        job |= {"SLURM_NTASKS": "16", "SLURM_GPUS_ON_NODE": "8", "CODE": str(code)}
        job |= {"WAITS": "1" if signalled else "", "PREEMPT": preempt}
        process = subprocess.Popen(
            ["bash", SCRIPTS / script, "clip.yaml", "run"],
            cwd=tmp_path,
            env=os.environ | job | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        if signalled:
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(signal.SIGUSR1)
        process.communicate(timeout=60)
        return process.returncode, (tmp_path / "said").read_text()

    return run


RANKS = "n1:20412 16: bash -c RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec contrastive train"
TORCHRUN = "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint n1:20412"
REQUEUED = "scontrol requeue 412\n"


@pytest.mark.parametrize(
    ("script", "asked"), [("train.sbatch", RANKS), ("torchrun.sbatch", TORCHRUN)]
)
def test_a_job_begins_a_run_and_a_job_of_the_same_folder_resumes_it(
    submitted, tmp_path, script, asked
):
    code, said = submitted(script)
    assert code == 0
    assert asked in said
    assert said.endswith("clip.yaml --output run\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text("{}\n")
    assert submitted(script)[1].endswith("clip.yaml --output run --resume\n")


@pytest.mark.parametrize(
    ("script", "how", "requeued"),
    [
        ("train.sbatch", {"code": 138, "signalled": True}, True),
        ("train.sbatch", {"code": 143}, True),  # preempted: SLURM signals the ranks alone
        ("train.sbatch", {"code": 2}, False),
        ("train.sbatch", {"code": 137}, False),  # killed, for its memory maybe
        ("train.sbatch", {"code": 0, "signalled": True}, False),  # by its last step
        ("torchrun.sbatch", {"code": 1, "signalled": True}, True),
        ("torchrun.sbatch", {"code": 1, "preempt": "PreemptTime=2026-01-31T10:00:00"}, True),
        ("torchrun.sbatch", {"code": 1}, False),
        ("torchrun.sbatch", {"code": 0, "signalled": True}, False),
    ],
)
def test_what_a_signal_ended_goes_back_into_the_queue_and_nothing_else(
    submitted, script, how, requeued
):
    code, said = submitted(script, **how)
    assert code == how["code"]
    assert said.endswith(REQUEUED) == requeued
    assert ("forwarded\n" in said) == how.get("signalled", False)
