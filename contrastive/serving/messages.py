"""What requests and answers look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

MOST_FIELDS = 30  # of a message: each that nobody knows is a mistake with a line of its own


class Ask(BaseModel):
    """A request; a field that nobody knows is a mistake."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, given: object) -> object:
        if isinstance(given, dict) and len(cast("dict[str, Any]", given)) > MOST_FIELDS:
            raise PydanticCustomError("fields", "more fields than a request has")
        return cast("object", given)


class ImageInput(Ask):
    """An image among the inputs."""

    image: str = Field(description="data:image/png;base64,...")


class TextInput(Ask):
    """A text among the inputs."""

    text: str


Input = str | TextInput | ImageInput


class EmbeddingsRequest(BaseModel):
    """As OpenAI's, whose clients send fields that mean nothing here."""

    model_config = ConfigDict(extra="ignore")

    input: Input | Annotated[list[Input], Field(min_length=1, fail_fast=True)] = Field(
        description='A text, {"text": ...}, {"image": "data:..."}, or a list of these.'
    )
    model: str | None = Field(
        default=None, description="As /v1/models lists it; the first by default."
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, ge=1, description="Only the first numbers, normalised again (Matryoshka)."
    )

    @field_validator("input", mode="before")
    @classmethod
    def _has_no_tokens(cls, given: object) -> object:
        inputs = cast("list[object]", given if isinstance(given, list) else [given])
        if any(isinstance(one, (int, float, list)) for one in inputs):
            raise PydanticCustomError("tokens", "numbers of tokens mean nothing here; send texts")
        return cast("object", given)


class Embedding(BaseModel):
    """One embedding, of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers, or base64 of little-endian float32.")


class Usage(BaseModel):
    """What OpenAI counts in tokens: here in texts and images."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """As OpenAI's."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class SearchRequest(Ask):
    """A search in an index, by words or by an image."""

    text: str | None = None
    image: str | None = Field(default=None, description="data:image/png;base64,...")
    index: str | None = Field(
        default=None, description="As /v1/models lists it; the first by default."
    )
    find: str | None = Field(default=None, description="The modality to search.")
    k: int = Field(default=10, ge=1)
    where: Annotated[list[str], Field(fail_fast=True)] = Field(
        default=[], description="Conditions, such as label=dog."
    )
    min_precision: float | None = Field(
        None, ge=0, le=1, description="Only hits of which so many are right; needs a calibration."
    )


class Hit(BaseModel):
    """A row of the index."""

    similarity: float = Field(description="The cosine with the query.")
    probability: float | None = Field(default=None, description="That it is right, if calibrated.")
    found: str
    source: str
    image: str | None = Field(
        default=None, description="The path of a small copy, if it is an image."
    )
    columns: dict[str, Any] = {}


class SearchAnswer(BaseModel):
    """Hits, best first; none where nothing is a match."""

    index: str
    query_modality: str
    modality: str
    hits: list[Hit]
    nearest: Hit | None = Field(
        default=None, description="Where there is no match, what came nearest."
    )
    notes: list[str] = []


class ClassifyRequest(Ask):
    """Zero-shot classification of an image."""

    image: str = Field(description="data:image/png;base64,...")
    classes: Annotated[list[str], Field(fail_fast=True)] = Field(min_length=1)
    templates: Annotated[list[str], Field(fail_fast=True)] | None = Field(
        default=None, description="Sentences with {} for the class."
    )
    model: str | None = None
    min_precision: float | None = Field(default=None, ge=0, le=1)


class ClassScore(BaseModel):
    """A class, and what it is worth."""

    name: str
    probability: float = Field(description="Among the classes; they sum to 1.")
    calibrated: float | None = Field(
        default=None, description="By itself, if the model is calibrated."
    )
    chosen: bool | None = Field(default=None, description="Whether it reaches min_precision.")


class ClassifyAnswer(BaseModel):
    """Classes, most probable first."""

    model: str
    classes: list[ClassScore]
    none_of_these: bool | None = None


class ModelCard(BaseModel):
    """A model, and its index."""

    id: str
    object: Literal["model"] = "model"
    owned_by: str = "contrastive"
    created: int = 0
    modalities: list[str]
    dim: int
    rows: dict[str, int] = Field(default={}, description="Of the index, by modality.")
    columns: list[str] = []
    calibrated: bool


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Mistake(BaseModel):
    """Why a request is refused."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """As OpenAI's."""

    error: Mistake
