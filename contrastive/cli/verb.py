"""How verbs and options are parsed: old names work and warn, an argument too many is one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

from contrastive.console import say
from contrastive.errors import ContrastiveError, SpecError

if TYPE_CHECKING:
    from typer import Context

RENAMED_VERBS = {"pairs": "compositional"}
RENAMED_OPTIONS = {
    "compare": {"--spec": "--data", "--picture": "--plot"},
    "evaluate": {"--spec": "--data"},
    "new": {"--folder": "--output"},
    "probe": {"--spec": "--data", "--picture": "--plot", "--on": "--inputs"},
    "search": {"--by": "--query-modality"},
}
"""By verb, options' names of release 0.1 and those of today."""


class CtrlC(ContrastiveError):  # noqa: N818
    """Somebody has had enough."""

    exit_code = 130

    def __init__(self) -> None:
        """Say what is left."""
        super().__init__("interrupted; files on disk are complete, and cached features are kept")


class Verb(TyperCommand):
    """One verb."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse the arguments, options under their old names too.

        Raises:
            SpecError: there is an argument too many.
        """
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, _with_new_names(args, RENAMED_OPTIONS.get(self.name or "")))
        if rest and not ctx.resilient_parsing:
            takes_model = any("--model" in param.opts for param in self.params)
            how = f"; a model is given by --model {rest[0]}" if takes_model else ""
            msg = f"{self.name}: {rest[0]!r} is one argument too many{how}"
            raise SpecError(msg)
        return rest


class Verbs(TyperGroup):
    """All verbs."""

    def invoke(self, ctx: Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run a verb; typer would end the process after Ctrl-C without a word.

        Raises:
            CtrlC: it was interrupted.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise CtrlC from None

    def resolve_command(self, ctx: Context, args: list[str]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Find the verb, by its old name too."""
        if new := RENAMED_VERBS.get(args[0]):
            say(f"the verb {args[0]} is now {new}")
            args = [new, *args[1:]]
        return super().resolve_command(ctx, args)


def _with_new_names(args: list[str], renamed: dict[str, str] | None) -> list[str]:
    options = args[: args.index("--")] if "--" in args else args
    found: list[str] = []
    for arg in options:
        name, equals, value = arg.partition("=")
        if renamed and (new := renamed.get(name)):
            say(f"the option {name} is now {new}")
            arg = f"{new}{equals}{value}"  # noqa: PLW2901
        found.append(arg)
    return found + args[len(options) :]
