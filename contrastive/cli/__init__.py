"""The ``contrastive`` command.

Results go to stdout (``--json`` for machines), everything else to stderr. A user's mistake is one
line for each and exit code 2. torch is imported by the commands that compute, not by the others.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn, cast

from contrastive.cli import (
    answer,
    caption,
    classify,
    compare,
    compositional,
    doctor,
    evaluate,
    generate,
    init,
    plugins,
    probe,
    schema,
    search,
    train,
    validate,
)
from contrastive.cli.options import app
from contrastive.console import printable
from contrastive.errors import ContrastiveError

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import TextIOWrapper

for verb in (  # in the order of the help
    init.init,
    train.train,
    doctor.doctor,
    evaluate.evaluate,
    probe.probe,
    compositional.pairs,
    compare.compare,
    classify.classify,
    caption.caption,
    answer.answer,
    search.search,
    generate.generate,
    validate.validate,
    schema.schema,
):
    app.command()(verb)
app.add_typer(plugins.plugins, name="plugins")


def main() -> None:
    """Run the command line."""
    # threads that spin while they wait make a shared machine several times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # a name or a caption may hold what the encoding of the terminal lacks
    cast("TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")
    run_guarded(app)


def run_guarded(work: Callable[[], Any]) -> None:
    """Do ``work``; a user's mistake ends the process with its message and exit code 2."""
    try:
        work()
    except ContrastiveError as error:
        _end(str(error), getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; files on disk are complete, and cached features are kept\n")
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # the disk is full, or a folder may not be written
        if not error.strerror:
            raise
        _end(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2)


def _end(message: str, code: int) -> NoReturn:
    sys.stderr.write(printable(message) + "\n")
    sys.exit(code)
