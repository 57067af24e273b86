"""Checks of every component: its config is documented plain data, and cheap to import."""

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

from contrastive.config.attribute_docstrings import attribute_docstrings
from contrastive.config.base import Config, validated
from contrastive.config.registry import path_of
from contrastive.config.yaml_files import dump_spec, read_yaml
from contrastive.testing import menu
from contrastive.testing.checks import Check, Fault, Skipped, expect
from contrastive.testing.processes import environment, in_subprocess, pickled

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrastive.config.registry import Registry


@dataclass(frozen=True)
class Subject:
    """The component under test."""

    config: Config

    @property
    def cls(self) -> type[Config]:
        """Its class."""
        return type(self.config)

    @property
    def home(self) -> Path:
        """The folder of the package that defines it, else of the module."""
        name = self.cls.__module__
        modules = [sys.modules.get(name.partition(".")[0]), sys.modules.get(name)]
        files = [getattr(module, "__file__", None) for module in modules]
        return next((Path(file).parent for file in files if file), Path("/nowhere"))

    def load(self, data: Any) -> Config:
        """Load such a config from plain data, as a spec does."""
        return validated(cast("Registry[Any]", self.cls.registry).interface, data)

    def needs_module(self) -> None:
        """Raise Skipped if no other process can import the class."""
        spec: Any = getattr(sys.modules.get(self.cls.__module__), "__spec__", None)
        if self.cls.__module__ == "__main__" or spec is None:
            raise Skipped("its class is written in a notebook or a script, not in a module")

    def in_subprocess(self, what: str, function: Callable[..., Any], *arguments: object) -> Any:
        """Return the result of a function, for which ``what`` is pickled, in another process."""
        pickled((function, arguments), what)
        self.needs_module()
        return in_subprocess(function, *arguments)


def has_a_name(subject: Subject) -> None:
    """A spec finds the component by its registered name, or by its import path."""
    cls, path = subject.cls, path_of(subject.cls)
    problem = f"{path} is a config, but of no kind of component"
    expect(cls.kind, problem, "subclass Encoder, Head, Loss, Dataset or another interface")
    problem = f"{path} is defined inside a function, where no spec finds it"
    expect("<locals>" not in cls.__qualname__, problem, "define it at the top of a module")
    name = cls.registry.name_of(cls)
    found = cls.registry[name]
    problem = f"type: {name} is {path_of(found)}, not {path}"
    expect(found is cls, problem, "give it a name of its own")


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
            loaded = subject.load(data)
        except ValidationError as error:
            problem = f"what it dumps as {form} is refused when loaded: {_lines(error)[0]}"
            raise Fault(problem, "dump every field as its validators take it") from None
        both = ((k, getattr(config, k), getattr(loaded, k, None)) for k in subject.cls.model_fields)
        changed = [f"{name} is {x!r} and becomes {y!r}" for name, x, y in both if x != y]
        problem = f"{', '.join(changed) or 'the class changes'} once dumped as {form} and loaded"
        remedy = "let serializers and validators be inverse, and idempotent"
        expect(loaded == config, problem, remedy)
        expect(hash(loaded) == hash(config), f"loaded from {form}, its hash differs")


def is_strict(subject: Subject) -> None:
    """A config is immutable, and refuses unknown fields."""
    expect(subject.cls.model_config.get("frozen"), "its fields can be changed", "keep frozen=True")
    unknown = "a_field_that_nobody_has"
    fields = json.loads(subject.config.model_dump_json()) | {unknown: 1}
    try:
        subject.load(fields)
    except ValidationError as error:
        lines = _lines(error)
        problem = f"one unknown field is reported as {len(lines)} mistakes: {' / '.join(lines)}"
        alone = len(lines) == 1 and unknown in lines[0]
        expect(alone, problem, "let validators ignore unknown fields")
    else:
        problem = "it takes a field that it does not have, and so a misspelt one"
        raise Fault(problem, "keep extra='forbid' in model_config")


def _lines(error: ValidationError) -> list[str]:
    return [
        " ".join(f"{'.'.join(map(str, each['loc'])) or 'the spec'}: {each['msg']}".split())
        for each in error.errors(include_url=False)
    ]


def has_a_schema(subject: Subject) -> None:
    """Editors get a JSON schema of the fields, each of a type that JSON has or with a schema."""
    schema = subject.cls.model_json_schema()
    json.dumps(schema)
    missing = {field.alias or name for name, field in subject.cls.model_fields.items()}
    missing -= schema.get("properties", {}).keys()
    problem = f"its JSON schema leaves out {', '.join(sorted(missing))}"
    expect(not missing, problem, "leave __get_pydantic_json_schema__ to Config")


def is_documented(subject: Subject) -> None:
    """The class, each field and build have a docstring: the help that users see."""
    cls = subject.cls
    try:
        inspect.getsource(cls)
    except (OSError, TypeError):
        raise Skipped("its source cannot be read, as in an interactive session") from None
    docs = attribute_docstrings(cls)
    found: dict[str, Any] = {"the class": cls.__doc__}
    found |= {f"field {k}": x.description or docs.get(k) for k, x in cls.model_fields.items()}
    found |= {"build": build.__doc__} if (build := getattr(cls, "build", None)) else {}
    lacking = [name for name, doc in found.items() if not doc]
    problem = f"{', '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no docstring"
    expect(not lacking, problem, 'write one (of a field: """...""" on the line below it)')


def imports_no_torch(subject: Subject) -> None:
    """Importing and checking the config imports no torch and prints nothing."""
    subject.needs_module()
    fields = json.loads(subject.config.model_dump_json(exclude={"type"}))
    fields.pop("type", None)
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-P", menu.__file__, _path(subject.cls), json.dumps(fields)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    try:
        result = json.loads(run.stdout)
    except ValueError:
        result = {"error": f"the process ended with code {run.returncode}"}
    error, torch_line = result.get("error"), result.get("torch")
    problem = f"a new Python process cannot import and check the config ({error})"
    expect(not error, problem, "let its module import all that its fields need")
    problem = f"checking a spec imports torch ({torch_line}), which takes seconds"
    expect(not torch_line, problem, "import torch, and what imports it, inside build()")
    printed = run.stderr.strip().splitlines()
    problem = f"importing it prints {''.join(printed[:1])!r}"
    expect(not printed, problem, "let modules be silent; log from build()")


def _path(cls: type[Config]) -> str:
    """Return the import path that a spec takes: that of the entry point, if there is one."""
    registry = cast("Registry[Any]", cls.registry)
    offers = registry.installed.get(registry.name_of(cls), [])
    of_class = cls in registry.registered.values() or len(offers) != 1
    return path_of(cls) if of_class else offers[0].path


GENERIC_CHECKS: tuple[Check, ...] = (
    Check("name", has_a_name),
    Check("schema", has_a_schema),
    Check("round trip", round_trips, needs=("name", "schema")),
    Check("strictness", is_strict, needs=("round trip",)),
    Check("docstrings", is_documented),
    Check("menu", imports_no_torch, needs=("name", "round trip")),
)
