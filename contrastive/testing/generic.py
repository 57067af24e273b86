"""What every component promises: its config is plain data that explains itself."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from contrastive.config.base import Config, attribute_docstrings
from contrastive.config.registry import path_of, reason
from contrastive.config.yaml_files import dump_spec, read_yaml
from contrastive.errors import ContrastiveError
from contrastive.testing import menu
from contrastive.testing.checks import Check, Fault, Skipped
from contrastive.testing.processes import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrastive.config.registry import Registry


@dataclass(frozen=True)
class Subject:
    """A config that is examined."""

    config: Config

    @property
    def cls(self) -> type[Config]:
        """Return its class."""
        return type(self.config)

    @property
    def home(self) -> Path:
        """Return the folder of the package that it is written in, else of the module."""
        name = self.cls.__module__
        modules = [sys.modules.get(name.partition(".")[0]), sys.modules.get(name)]
        files = [getattr(module, "__file__", None) for module in modules]
        return next((Path(file).parent for file in files if file), Path("/nowhere"))

    @property
    def again(self) -> Callable[[Any], Config]:
        """Return what reads such a config from plain data, as a spec is read."""
        return cast("Registry[Any]", self.cls.registry).interface.choose

    @property
    def has_module(self) -> bool:
        """Whether another process can import the class: notebooks and scripts are no modules."""
        spec: Any = getattr(sys.modules.get(self.cls.__module__), "__spec__", None)
        return self.cls.__module__ != "__main__" and spec is not None


def has_a_name(subject: Subject) -> None:
    """A spec can name the component: by a registered name, or by its import path."""
    cls = subject.cls
    if not cls.kind:
        problem = f"{path_of(cls)} is a config, but of no kind of component"
        raise Fault(problem, "subclass Encoder, Head, Loss, Dataset or another interface")
    registry = cls.registry
    if "<locals>" in cls.__qualname__:
        problem = f"{path_of(cls)} is defined inside a function, where no spec finds it"
        raise Fault(problem, "define it at the top of a module")
    name = registry.name_of(cls)
    try:
        found = registry[name]
    except ContrastiveError as error:
        problem = f"a spec that says type: {name} does not find the class: {error}"
        raise Fault(problem, "correct the entry point in pyproject.toml") from None
    if found is not cls:
        problem = f"type: {name} is {path_of(found)}, not {path_of(cls)}"
        raise Fault(problem, "give it a name of its own")


def round_trips(subject: Subject) -> None:
    """What is dumped as Python, JSON or YAML loads as an equal config with an equal hash."""
    config = subject.config
    with TemporaryDirectory() as folder:
        path = Path(folder) / "component.yaml"
        path.write_text(dump_spec(config), encoding="utf-8")
        forms: dict[str, Any] = {
            "Python": config.model_dump(),
            "JSON": json.loads(config.model_dump_json()),
            "YAML": read_yaml(path)[0],
        }
    for form, data in forms.items():
        try:
            loaded = subject.again(data)
        except ValidationError as error:
            problem = f"what it dumps as {form} is refused when loaded: {_lines(error)[0]}"
            raise Fault(problem, "dump every field as its validators take it") from None
        if loaded != config:
            problem = f"{_changed(config, loaded)} once dumped as {form} and loaded"
            raise Fault(problem, "let serializers and validators be inverse, and idempotent")
        if hash(loaded) != hash(config):
            problem = f"a config loaded from {form} is equal to the one dumped, its hash is not"
            raise Fault(problem, "leave __hash__ to contrastive.config.base.Config")


def _changed(config: Config, loaded: Config) -> str:
    for name in type(config).model_fields:
        before, after = getattr(config, name), getattr(loaded, name, None)
        if before != after:
            return f"{name} is {before!r} and becomes {after!r}"
    return f"{config!r} becomes {loaded!r}"


def is_strict(subject: Subject) -> None:
    """A config is immutable, and refuses a field that it has not."""
    if not subject.cls.model_config.get("frozen"):
        raise Fault("its fields can be changed", "leave frozen=True in model_config as it is")
    unknown = "a_field_that_nobody_has"
    fields = json.loads(subject.config.model_dump_json()) | {unknown: 1}
    try:
        subject.again(fields)
    except ValidationError as error:
        lines = _lines(error)
        if len(lines) != 1 or unknown not in lines[0]:
            problem = f"one unknown field is reported as {len(lines)} mistakes: {' / '.join(lines)}"
            raise Fault(problem, "let validators pass what is not theirs") from None
        return
    problem = "it takes a field that it does not have, and so a misspelt one"
    raise Fault(problem, "leave extra='forbid' in model_config as it is")


def _lines(error: ValidationError) -> list[str]:
    return [
        " ".join(f"{'.'.join(map(str, each['loc'])) or 'the spec'}: {each['msg']}".split())
        for each in error.errors(include_url=False)
    ]


def has_a_schema(subject: Subject) -> None:
    """Editors get a JSON schema of the fields."""
    try:
        schema = subject.cls.model_json_schema()
        json.dumps(schema)
    except Exception as error:
        said, _, _ = reason(error).partition(" For further information")
        problem = f"no JSON schema can be made of it ({said})"
        remedy = "annotate fields with types that JSON has, or give theirs a schema"
        raise Fault(problem, remedy) from None
    missing = {field.alias or name for name, field in subject.cls.model_fields.items()}
    missing -= schema.get("properties", {}).keys()
    if missing:
        problem = f"its JSON schema leaves out {', '.join(sorted(missing))}"
        raise Fault(problem, "leave __get_pydantic_json_schema__ to contrastive.config.base.Config")


def explains_itself(subject: Subject) -> None:
    """The class, each field and build have a docstring, which is what users get to read."""
    cls = subject.cls
    try:
        inspect.getsource(cls)
    except (OSError, TypeError):
        raise Skipped("its source cannot be read, as in an interactive session") from None
    told = attribute_docstrings(cls)
    fields = cls.model_fields.items()
    lacking = ["the class"] if not cls.__doc__ else []
    lacking += [
        f"field {name}" for name, field in fields if not (field.description or told.get(name))
    ]
    build = getattr(cls, "build", None)
    lacking += ["build"] if build is not None and not build.__doc__ else []
    if lacking:
        one = "has" if len(lacking) == 1 else "have"
        remedy = 'write one (of a field: """...""" on the line below it)'
        raise Fault(f"{', '.join(lacking)} {one} no docstring", remedy)


def has_a_light_menu(subject: Subject) -> None:
    """Importing and checking the config imports no torch and prints nothing."""
    if not subject.has_module:
        raise Skipped("its class is written in a notebook or a script, not in a module")
    cls = subject.cls
    fields = json.loads(subject.config.model_dump_json(exclude={"type"}))
    fields.pop("type", None)
    said = subprocess.run(  # noqa: S603
        [sys.executable, "-P", menu.__file__, _path(cls), json.dumps(fields)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    try:
        result = json.loads(said.stdout)
    except ValueError:
        result = {"error": f"the process ended with code {said.returncode}"}
    if error := result.get("error"):
        problem = f"a new Python process cannot import and check the config ({error})"
        raise Fault(problem, "let its module import all that its fields need")
    if place := result.get("torch"):
        problem = f"checking a spec imports torch ({place}), which takes seconds"
        raise Fault(problem, "import torch, and what imports it, inside build()")
    if said.stderr.strip():
        line = said.stderr.strip().splitlines()[0]
        raise Fault(f"importing it prints {line!r}", "let modules be silent; log from build()")


def _path(cls: type[Config]) -> str:
    """Return the import path that a spec takes: that of the entry point, if there is one."""
    registry = cast("Registry[Any]", cls.registry)
    offers = registry.installed.get(registry.name_of(cls), [])
    of_class = cls in registry.registered.values() or len(offers) != 1
    return path_of(cls) if of_class else offers[0].path


GENERIC_CHECKS: tuple[Check[Any], ...] = (
    Check("name", has_a_name),
    Check("schema", has_a_schema),
    Check("round trip", round_trips, needs=("name", "schema")),
    Check("strictness", is_strict, needs=("round trip",)),
    Check("docstrings", explains_itself),
    Check("menu", has_a_light_menu, needs=("name", "round trip")),
)
