"""The base class of everything that can be written in a spec."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import (
    CoreSchema,
    ErrorDetails,
    InitErrorDetails,
    PydanticCustomError,
    core_schema,
)

from contrastive.errors import SpecError, UnknownComponent

if TYPE_CHECKING:
    from collections.abc import Iterator

    PathField = str | Path
else:
    PathField = Path
"""A field that holds a path and is given a path or a string, which type checkers then let pass."""


VALUE_ERROR = "Value error, "  # what pydantic puts before the text of a ValueError


class RegistryLookup(Protocol):
    """What a config uses of the registry of its kind: names to classes and back."""

    def __iter__(self) -> Iterator[str]:
        """Yield every name."""
        ...

    def __getitem__(self, name: str) -> type[Any]:
        """Return the class that a name stands for."""
        ...

    def name_of(self, cls: type[Config]) -> str:
        """Return what a spec should call a class."""
        ...

    def package_of(self, cls: type[Config]) -> tuple[str, str] | None:
        """Return the installed package that offers a class, and its version."""
        ...


class Config(BaseModel):
    """A strict, immutable description of one part of a model or a run.

    A subclass that sets ``kind`` in its own body is an interface: a field annotated with it
    takes any component of that kind, chosen by ``type``.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,  # JSON has neither
        defer_build=True,  # most configs are never instantiated
        populate_by_name=True,  # what is dumped loads again, also where a field has an alias
        serialize_by_alias=True,
    )

    kind: ClassVar[str] = ""
    registry: ClassVar[RegistryLookup]

    def __init__(self, /, *unnamed: Any, **fields: Any) -> None:
        """Check the fields.

        Raises:
            SpecError: one line for each mistake.
        """
        if unnamed:
            first = next(iter(type(self).model_fields), "")
            how = f"such as {first}={unnamed[0]!r}" if first else "of which it has none"
            msg = f"{type(self).__name__}: fields are given by name, {how}"
            raise SpecError(msg)
        try:
            self.__pydantic_validator__.validate_python(fields, self_instance=self)
        except ValidationError as error:
            raise SpecError(error_lines(error, type(self).__name__)) from None

    # pydantic calls an __init__ of one's own for nested configs too; this one is for the outermost
    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change a field.

        Raises:
            SpecError: says how to make another object.
        """
        if not name.startswith("_"):
            msg = (
                f"{type(self).__name__}: {name} cannot be changed; make another: "
                f"model_copy(update={{{name!r}: ...}})"
            )
            raise SpecError(msg)
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other fields, checked like those of a new object.

        Raises:
            SpecError: one line for each mistake.
        """
        if not update:
            return super().model_copy(deep=deep)
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**given | dict(update))

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to be the module that it describes.

        Raises:
            SpecError: says how to make that.
        """
        name = type(self).__name__
        msg = f"{name} describes a component and is none; build it first: {name}(...).build()"
        raise SpecError(msg)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the fields that are not at their defaults."""
        for name, field in type(self).model_fields.items():
            if (value := getattr(self, name)) != field.get_default(call_default_factory=True):
                yield name, value

    def check_again(self) -> Self:
        """Return an equal object whose fields are checked, as pydantic can make unchecked ones.

        Raises:
            SpecError: one line for each mistake.
        """
        fields = {name: _check_again(getattr(self, name)) for name in self.model_fields_set}
        return type(self)(**fields)

    def __hash__(self) -> int:
        """Hash what a file would say; the fields themselves may be dicts or lists."""
        return hash(json.dumps(self.model_dump(mode="json"), sort_keys=True))

    @model_serializer(mode="wrap")
    def _add_type(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = serialize(self)
        return {"type": self.registry.name_of(type(self)), **fields} if self.kind else fields

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_fields(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(value)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, _explain(cls, error.errors(include_url=False))
            ) from None

    @classmethod
    def choose(cls, value: object) -> Config:
        """Turn ``{"type": name, ...}`` into a config of the class called ``name``."""
        if isinstance(value, cls):
            return value
        if isinstance(value, Config):
            about = {"kind": cls.kind, "given": type(value).__name__}
            raise PydanticCustomError("bad_kind", "needs the kind {kind}, not {given}", about)
        fields = dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}
        name = fields.pop("type", None)
        if not isinstance(name, str):
            names = ", ".join(cls.registry)
            raise PydanticCustomError(
                "no_type", "needs a 'type', one of: {names}", {"names": names}
            )
        try:
            chosen: type[Config] = cls.registry[name]
        except UnknownComponent as error:
            raise PydanticCustomError("bad_type", "{why}", {"why": str(error)}) from None
        return chosen.model_validate(fields)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls.__dict__.get("kind"):
            return handler(source)
        as_its_own_type = core_schema.wrap_serializer_function_ser_schema(
            lambda value, serialize: serialize(value), schema=core_schema.any_schema()
        )
        return core_schema.no_info_plain_validator_function(
            cls.choose, serialization=as_its_own_type
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        if cls.__dict__.get("kind"):
            return {"$component": cls.kind}  # contrastive.config.json_schema knows the components
        described = handler(schema)
        model = handler.resolve_ref_schema(described)
        for name, about in attribute_docstrings(cls).items():
            model.get("properties", {}).get(name, {}).setdefault("description", about)
        if cls.kind:
            chosen = {"type": "string", "description": model.get("description", "")}
            model["properties"] = {"type": chosen} | model.get("properties", {})
            model["required"] = ["type", *model.get("required", [])]
        return described


def error_lines(error: ValidationError, origin: str) -> str:
    """Return a line for each mistake: where it is, after the name of the whole, and what."""
    return "\n".join(f"{origin}: {in_one_line(e)}" for e in error.errors(include_url=False))


def in_one_line(mistake: ErrorDetails) -> str:
    """Return where a mistake is and what: ``training.lr: Input should be greater than 0``."""
    where = ".".join(map(str, mistake["loc"]))
    text = mistake["msg"].removeprefix(VALUE_ERROR)
    return " ".join(f"{where}: {text}".split()) if where else " ".join(text.split())


def _check_again(value: Any) -> Any:
    match value:
        case Config():
            return value.check_again()
        case dict():
            return {key: _check_again(v) for key, v in cast("dict[Any, Any]", value).items()}
        case list() | tuple():
            return [_check_again(v) for v in cast("list[Any]", value)]
        case _:
            return value


def attribute_docstrings(cls: type[Config]) -> dict[str, str]:
    """Return the docstring below each field, the inherited ones too.

    pydantic's own option reads them as it makes the class: a seventh of the time that checking a
    spec takes, and no one looks at them there.
    """
    bases = reversed(cls.__mro__[: cls.__mro__.index(Config)])
    return {name: about for base in bases for name, about in _own_docstrings(base).items()}


@cache  # finding a class parses its whole file, and a schema asks twice for each
def _own_docstrings(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # made in an interactive session
        return {}
    found: dict[str, str] = {}
    body = cast("ast.ClassDef", ast.parse(source).body[0]).body
    for field, text in pairwise(body):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(about))),
            ):
                found[name] = inspect.cleandoc(about)
            case _:
                pass
    return found


def _explain(cls: type[Config], errors: list[ErrorDetails]) -> list[InitErrorDetails]:
    """Say of each unknown field which field was probably meant."""
    fields = [field.alias or name for name, field in cls.model_fields.items()]
    lines: list[InitErrorDetails] = []
    meant: set[tuple[int | str, ...]] = set()
    for error in errors:
        text = error["msg"].removeprefix(VALUE_ERROR)
        if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
            close = difflib.get_close_matches(str(error["loc"][0]), fields, n=1)
            meant.update((name,) for name in close)
            known = f"there are: {', '.join(fields)}" if fields else "it has no fields"
            text = (
                f"unknown field; did you mean {close[0]!r}?" if close else f"unknown field; {known}"
            )
        line = PydanticCustomError(cast("Any", error["type"]), "{text}", {"text": text})
        lines.append(InitErrorDetails(type=line, loc=error["loc"], input=error["input"]))
    return [
        line
        for line, error in zip(lines, errors, strict=True)
        if not (error["type"] == "missing" and error["loc"] in meant)
    ]
