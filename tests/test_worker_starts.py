"""An interruption while worker processes start leaves none of them, and nothing that they say."""

import os
import signal
import sys
from multiprocessing import active_children

import pytest

from contrastive.data.worker_processes import Workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks Linux"),
]


def test_who_is_interrupted_as_it_starts_workers_ends_those_that_it_has_started(forkserver):
    started = []

    def start():
        for _ in range(2):
            process = forkserver.Process(target=signal.pause, daemon=True)
            if started:
                os.kill(os.getpid(), signal.SIGINT)  # which waits until this one is known, too
            process.start()
            started.append(process)
        return iter(())

    before = set(active_children())
    with pytest.raises(KeyboardInterrupt):
        Workers(start, workers=2)
    assert len(started) == 2
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [-signal.SIGKILL] * 2
    assert set(active_children()) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
