"""What a calibration was found to be worth, as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from contrastive.console import printable
from contrastive.model.scores import rounded_down

if TYPE_CHECKING:
    from contrastive.evaluation.calibration import CalibrationReport, Precision


def calibration_tables(report: CalibrationReport) -> list[Table | str]:
    """Return the error of the probabilities, the precision of results, and what is rejected."""
    shown: list[Table | str] = [printable(f"fitted on {report.calibration.fitted_on}")]
    where = f"split {report.split}" if report.split else "the samples to judge on"
    shown += [
        printable(
            f"{name.replace('_', ' and ', 1)}: expected calibration error {found.error:.3f} of "
            f"{found.pairs:,} pairs of {where}; {found.of_perfect:.3f} if the probabilities are "
            "right"
        )
        for name, found in report.reliability.items()
    ]
    if any(found.score is not None for found in report.precision):
        shown.append(_precisions(report, where))
    shown += _never(report)
    shown += [
        printable(
            f"{direction.replace('_to_', ' -> ')}: a cosine of {found.score:.3f} loses "
            f"{found.lost:.1%} of {found.hits:,} true hits and rejects {found.rejected:.1%} of "
            f"{found.absent:,} queries whose answer is taken away (area {found.area:.3f})"
        )
        for direction, found in report.rejection.items()
    ]
    shown += [
        printable(
            f"{direction.replace('_to_', ' -> ')}, standardized: {found.rejected:.1%} of these are "
            f"rejected at {found.lost:.1%} lost (area {found.area:.3f})"
        )
        for direction, found in report.standardized_rejection.items()
    ]
    return shown + [printable(note) for note in report.notes]


def _precisions(report: CalibrationReport, where: str) -> Table:
    table = Table(title=Text(printable(f"best results on {where}, by --min-precision")))
    for name in (
        "query -> target",
        "asked",
        "score\nfrom" if report.calibration.standardized else "cosine\nfrom",
        "returned",
        "right, % (95 % interval)",
    ):
        table.add_column(name)
    last = ""
    for found in report.precision:
        if found.score is None:
            continue
        if last and found.direction != last:
            table.add_section()
        shown = "" if found.direction == last else found.direction.replace("_to_", " -> ")
        last = found.direction
        right = found.right
        table.add_row(
            Text(printable(shown)),
            f"{found.asked:g}",
            "any" if found.score <= -1 else f"{found.score:.3f}",
            f"{found.returned} of {found.queries}",
            f"{100 * right.value:.1f} ({100 * right.low:.1f}-{100 * right.high:.1f})"
            if right
            else "-",
        )
    return table


def _never(report: CalibrationReport) -> list[str]:
    """Return a line for each direction in which some precision is never reached."""
    never: dict[str, list[Precision]] = {}
    for found in report.precision:
        if found.score is None:
            never.setdefault(found.direction, []).append(found)
    return [
        printable(
            f"{direction.replace('_to_', ' -> ')}: no result reaches "
            f"{', '.join(f'{found.asked:g}' for found in several)}; the best ones reach "
            f"{rounded_down(several[0].most)} at most"
        )
        for direction, several in never.items()
    ]
