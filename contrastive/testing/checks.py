"""Checks of components, and how to run a list of them.

A check is a function that raises ``Fault`` or ``Skipped``. The first line of its docstring says
what a component has to do, and is the remedy where a fault has none of its own. A check runs only
if those that it needs have passed (no output, no order of it), so that a defect is reported once.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.config.registry import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LONGEST = 400  # characters of an exception in a message; libraries quote whole files


class Fault(AssertionError):  # noqa: N818
    """A check that failed."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Say what is wrong, and what to do."""
        super().__init__(" ".join(problem.split()), " ".join(remedy.split()))


class Skipped(Exception):  # noqa: N818
    """Why a check does not apply to this component."""


def expect(kept: object, problem: str, remedy: str = "") -> None:
    """Raise a Fault unless the first argument is true."""
    if not kept:
        raise Fault(problem, remedy)


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Example:
        >>> print(Verdict("finite", problem="the loss is NaN"))
        finite: the loss is NaN
    """

    check: str
    problem: str = ""
    """What is wrong and what to do, in one line; empty if the check passed or was skipped."""
    skipped: str = ""
    """Why the check was not made, if it was not."""

    @property
    def passed(self) -> bool:
        """Whether the check was made and found nothing."""
        return not self.problem and not self.skipped

    def __str__(self) -> str:
        found = "passed" if self.passed else self.problem or f"skipped, {self.skipped}"
        return f"{self.check}: {found}"


@dataclass(frozen=True)
class Check:
    """One requirement of a component."""

    name: str
    run: Callable[[Any], None]
    """Takes the component under test."""
    needs: tuple[str, ...] = ()
    """Checks that have to pass first."""


def examine(checks: Sequence[Check], subject: object, *, home: Path) -> list[Verdict]:
    """Return a verdict for each check, whatever the component does.

    Each check comes after those that it needs; ``home`` is the folder of the component's code.
    """
    verdicts: list[Verdict] = []
    failed: set[str] = set()
    for check in checks:
        if missing := [name for name in check.needs if name in failed]:
            verdict = Verdict(check.name, skipped=f"it needs {missing[0]!r} to pass")
        else:
            verdict = _verdict(check, subject, home)
        if missing or verdict.problem:
            failed.add(check.name)
        verdicts.append(verdict)
    return verdicts


def _verdict(check: Check, subject: object, home: Path) -> Verdict:
    try:
        check.run(subject)
    except Skipped as why:
        return Verdict(check.name, skipped=str(why))
    except KeyboardInterrupt:
        raise
    except Fault as fault:
        problem, remedy = fault.args
    except BaseException as error:  # SystemExit too: a component must not end our process
        problem, remedy = f"raises {short_reason(error)}{_own_line(error, home)}", ""
    else:
        return Verdict(check.name)
    promise = (check.run.__doc__ or check.name).strip().partition("\n")[0].rstrip(".")
    remedy = remedy or f"expected: {promise[0].lower()}{promise[1:]}"
    return Verdict(check.name, f"{problem}; {remedy}")


def short_reason(error: BaseException) -> str:
    """Return an exception as one line of limited length."""
    text = reason(error)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _own_line(error: BaseException, home: Path) -> str:
    """Return the last line of the component's own code that an exception went through."""
    ours, frames = Path(__file__).parent, traceback.extract_tb(error.__traceback__)
    folders = [(frame, Path(frame.filename).parents) for frame in frames]
    own = [frame for frame, within in folders if home in within and ours not in within]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
