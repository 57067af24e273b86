"""How verbs and options are parsed: old names work and warn, what would be lost is one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from typer import BadParameter
from typer.core import TyperCommand, TyperGroup

from contrastive.config.arguments import address_in, path_of
from contrastive.console import say
from contrastive.errors import ContrastiveError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typer import Context

LEFT_OUT = 3  # exit code
ADDRESSED = {
    ("train", "output"),
    ("shard", "output"),
    ("doctor", "run"),
    ("compare", "models"),
}
"""By verb, the paths beside --model that may be addresses of a storage."""
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
        kept = "files on disk are complete, and cached features are kept"
        super().__init__(f"interrupted; {kept}: run it again")


class Verb(TyperCommand):
    """One verb."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse the arguments, options under their old names too.

        Raises:
            SpecError: there is an argument too many, one is empty, or an option is given twice.
        """
        ctx.allow_extra_args = True
        args = _with_new_names(args, RENAMED_OPTIONS.get(self.name or ""))
        if not ctx.resilient_parsing:
            self._check_values(ctx, args)
        try:
            rest = super().parse_args(ctx, args)
        except BadParameter as error:
            from contrastive.config.mistakes import VALUE_ERROR

            error.message = error.message.removeprefix(VALUE_ERROR)
            raise
        for param in self.params:
            name = str(param.name)
            anywhere = name == "model" or (str(self.name), name) in ADDRESSED
            ctx.params[name] = _local(param, ctx.params[name], addresses=anywhere)
        if rest and not ctx.resilient_parsing:
            takes_model = any("--model" in param.opts for param in self.params)
            how = f"a model is given by --model {rest[0]}" if takes_model else "leave it out"
            if not takes_model and any("--output" in param.opts for param in self.params):
                how += "; where it writes is given by --output"
            msg = f"{self.name}: {rest[0]!r} is one argument too many; {how}"
            raise SpecError(msg)
        return rest

    def _check_values(self, ctx: Context, args: list[str]) -> None:
        """Refuse what the parser drops: all but the last of several values, and empty ones."""
        given, _, order = self.make_parser(ctx).parse_args(args=[*args])
        for param in order:
            name = next((opt for opt in param.opts if opt.startswith("--")), param.opts[0])
            value: Any = given.get(param.name or "")
            several = isinstance(value, (list, tuple))
            if "" in (value if several else [value]):
                msg = f"{name if name[0] == '-' else param.name}: is empty; give a value"
                raise SpecError(msg)
            if (times := order.count(param)) > 1 and not several and isinstance(value, str):
                msg = f"{name}: is given {times} times; give it once"
                raise SpecError(msg)


def _local(param: Any, value: Any, *, addresses: bool) -> Any:
    """Return a parameter's value; of paths, local ones, the home folder put in for ~.

    Raises:
        SpecError: a path is an address, and those are not taken here.
    """
    if isinstance(value, (list, tuple)):
        several = [_local(param, x, addresses=addresses) for x in cast("Sequence[Any]", value)]
        return tuple(several) if isinstance(value, tuple) else several
    is_option = param.param_type_name == "option"
    name = param.opts[0] if is_option else str(param.metavar or param.name).rstrip(".")
    if addresses and (address := address_in(name, value)):
        return address
    return path_of(name, value) if isinstance(value, Path) else value


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
