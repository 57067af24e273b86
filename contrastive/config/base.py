"""The base class of everything that can be written in a spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, Protocol, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from contrastive.config.attribute_docstrings import attribute_docstrings
from contrastive.config.frozen import frozen
from contrastive.config.local_files import address_of
from contrastive.config.mistakes import (
    explained,
    misplaced,
    mistakes_of,
    passed_by_pydantic,
    unknown_field,
)
from contrastive.config.renamed import RenamedFields, warn, with_new_names
from contrastive.errors import SpecError, UnknownComponent

if TYPE_CHECKING:
    from collections.abc import Iterator

    PathField = PlaceField = str | Path
else:
    PathField = Path

    def _place(given: Any, path: ValidatorFunctionWrapHandler) -> Any:
        return (isinstance(given, (str, Path)) and address_of(given)) or path(given)

    PlaceField = Annotated[Path, WrapValidator(_place), PlainSerializer(str, when_used="json")]
"""A field that holds a path and is given a path or a string, which type checkers then let pass;
a ``PlaceField`` may be the address of a storage, too, which stays a string."""

S = TypeVar("S", bound="Config")
AGAIN = object()
"""A context of pydantic's in which objects that are there already are checked like new ones."""


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

    Example:
        >>> class Crop(Config):
        ...     size: int = 224
        >>> Crop(size=96)
        Crop(size=96)
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
    renamed: ClassVar[RenamedFields] = {}
    """By the name that a field had in older releases, what it is called now."""
    earlier_defaults: ClassVar[Mapping[str, Any]] = {}
    """By the name of a field, the default that it had in older releases; a run that began with it
    goes on with it."""

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
        with mistakes_of(type(self).__name__):
            self.__pydantic_validator__.validate_python(fields, self_instance=self)

    # pydantic calls an __init__ of one's own for nested configs too; this one is for the outermost
    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]

    @classmethod
    def model_validate(cls, obj: Any, **how: Any) -> Self:
        """Return an object of plain data, such as a dict.

        Raises:
            SpecError: one line for each mistake.
        """
        with mistakes_of(cls.__name__):
            return super().model_validate(obj, **how)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **how: Any) -> Self:
        """Return an object of JSON.

        Raises:
            SpecError: one line for each mistake.
        """
        with mistakes_of(cls.__name__):
            return super().model_validate_json(json_data, **how)

    @classmethod
    def model_validate_strings(cls, obj: Any, **how: Any) -> Self:
        """Return an object of a dict whose values are texts.

        Raises:
            SpecError: one line for each mistake.
        """
        with mistakes_of(cls.__name__):
            return super().model_validate_strings(obj, **how)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change a field.

        Raises:
            SpecError: says how to make another object.
        """
        if not name.startswith("_"):
            self._refuse_change(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """Refuse to delete a field.

        Raises:
            SpecError: says how to make another object.
        """
        if not name.startswith("_"):
            self._refuse_change(name)
        super().__delattr__(name)

    def _refuse_change(self, name: str) -> NoReturn:
        fields = type(self).model_fields
        msg = f"{type(self).__name__}: " + (
            f"{name} cannot be changed; make another: model_copy(update={{{name!r}: ...}})"
            if name in fields
            else f"{name}: {unknown_field(name, fields)}"
        )
        raise SpecError(msg)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other fields, checked like those of a new object.

        Raises:
            SpecError: one line for each mistake.
        """
        if not update:
            return super().model_copy(deep=deep)
        return type(self)(**self._given() | dict(self._with_new_names(dict(update))))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return a field that is asked for by its old name."""
            if name not in self.renamed:
                return super().__getattr__(name)
            warn(f"{type(self).__name__}: {name} is now {self.renamed[name].name}")
            return getattr(self, self.renamed[name].name)

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
        for name in type(self).model_fields:
            if (value := getattr(self, name)) != self._default(name):
                yield name, value

    def check_again(self) -> Self:
        """Return an equal object whose fields are checked, as pydantic can make unchecked ones.

        Raises:
            SpecError: one line for each mistake.
        """
        with mistakes_of(type(self).__name__):
            return validated(type(self), self, AGAIN)

    def _given(self) -> dict[str, Any]:
        """Return what is not a default, and whatever else was put in unchecked."""
        cls = type(self)
        return {
            name: value
            for name, value in vars(self).items()
            if name in self.model_fields_set
            # neither a cached property nor what the object keeps for itself
            or (name not in cls.model_fields and not hasattr(cls, name) and name[0] != "_")
            or (name in cls.model_fields and value != cls._default(name))
        }

    @classmethod
    def _default(cls, name: str) -> Any:
        return cls.model_fields[name].get_default(call_default_factory=True)

    def __hash__(self) -> int:
        """Hash what a file would say; the fields themselves may be dicts or lists."""
        return hash(json.dumps(self.model_dump(mode="json"), sort_keys=True))

    @model_serializer(mode="wrap")
    def _add_type(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = serialize(self)
        return {"type": self.registry.name_of(type(self)), **fields} if self.kind else fields

    @classmethod
    def _with_new_names(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return with_new_names(cls.__name__, cls.renamed, fields)

    @model_validator(mode="wrap")
    @classmethod
    def _checked(
        cls, value: Any, validate: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if isinstance(value, cls):
            if info.context is not AGAIN:
                return value
            if type(value) is not cls:
                return validated(type(value), value, AGAIN)
            value = value._given()
        elif why := misplaced(value, cls.__name__):
            raise PydanticCustomError("misplaced", "{why}", {"why": why})
        if cls.renamed and isinstance(value, Mapping):
            value = cls._with_new_names(cast("Mapping[str, Any]", value))
        try:
            made = validate(value)
        except ValidationError as error:
            mistakes = explained(cls, error.errors(include_url=False))
            raise ValidationError.from_exception_data(cls.__name__, mistakes) from None
        fields = vars(made)
        if mistakes := passed_by_pydantic(value, fields):
            raise ValidationError.from_exception_data(cls.__name__, mistakes)
        fields.update({name: frozen(field) for name, field in fields.items()})
        return made

    @classmethod
    def choose(cls, value: object, info: ValidationInfo | None = None) -> Config:
        """Turn ``{"type": name, ...}`` into a config of the class called ``name``.

        Raises:
            PydanticCustomError: there is no such class, or it is of another kind; a field's check
                turns it into a line of the ``SpecError``.
        """
        context = info.context if info else None
        if isinstance(value, cls):
            return validated(type(value), value, AGAIN) if context is AGAIN else value
        if why := misplaced(value, f"the kind {cls.kind}"):
            raise PydanticCustomError("misplaced", "{why}", {"why": why})
        fields = dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}
        name = fields.pop("type", None)
        if not isinstance(name, str):
            known = list(cls.registry)
            how = (
                f"; write {{type: {value}}}" if value in known else f", one of: {', '.join(known)}"
            )
            raise PydanticCustomError("no_type", "needs a 'type'{how}", {"how": how})
        try:
            chosen: type[Config] = cls.registry[name]
        except UnknownComponent as error:
            raise PydanticCustomError("bad_type", "{why}", {"why": str(error)}) from None
        return validated(chosen, fields, context)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls.__dict__.get("kind"):
            return handler(source)
        as_its_own_type = core_schema.wrap_serializer_function_ser_schema(
            lambda value, serialize: serialize(value), schema=core_schema.any_schema()
        )
        return core_schema.with_info_plain_validator_function(
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
        for old, new in cls.renamed.items():
            text = f"Now {new.name}."  # the message keeps editors from offering it
            now = {"deprecated": True, "deprecationMessage": text, "description": text}
            model["properties"][old] = model["properties"][new.name] | now
        if cls.kind:
            chosen = {"type": "string", "description": model.get("description", "")}
            model["properties"] = {"type": chosen} | model.get("properties", {})
            model["required"] = ["type", *model.get("required", [])]
        return described


def validated(kind: type[S], value: object, context: object = None) -> S:
    """Return an object of ``kind``; a mistake is pydantic's own error, which has its place.

    Raises:
        ValidationError: there are mistakes.
    """
    return kind.__pydantic_validator__.validate_python(value, context=context)
