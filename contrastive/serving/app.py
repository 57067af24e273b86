"""The application: which path is answered by what, and errors in one form."""

from __future__ import annotations

import asyncio
import re
import warnings
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi import Path as PathValue
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image
from starlette.exceptions import HTTPException

from contrastive.console import say
from contrastive.errors import ContrastiveError
from contrastive.serving.answers import Server
from contrastive.serving.guard import Guard
from contrastive.serving.messages import (
    ClassifyAnswer,
    ClassifyRequest,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ErrorAnswer,
    ModelList,
    SearchAnswer,
    SearchRequest,
)
from contrastive.serving.problems import Problem, error_body, shortened
from contrastive.serving.samples import checked_image
from contrastive.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from contrastive.serving.collections import Served
    from contrastive.serving.metrics import Metrics
    from contrastive.serving.settings import Access, Limits


PAGE = Path(__file__).parent / "page"
UNNAMED = re.compile(r"(body|path|str|(Text|Image)Input)$|list\[")  # where no field is meant
DECODED = 4  # images of an index at a time: a large one takes 200 MB


def create_app(
    served: Sequence[Served], access: Access, limits: Limits, metrics: Metrics
) -> Callable[..., Any]:
    """Return the application, behind its guard."""
    server = Server(served, limits, metrics)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # too large, which is told

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        server.is_ready = False
        for one in served:
            await asyncio.to_thread(one.batches.close)

    app = FastAPI(
        title="contrastive",
        version=__version__,
        summary="Search, zero-shot classification and embeddings by a contrastive model.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        responses={"default": {"model": ErrorAnswer, "description": "What is wrong"}},
    )
    _add_errors(app)
    _add_paths(app, server)
    return Guard(app, access, limits, metrics)


def _add_paths(app: FastAPI, server: Server) -> None:
    files = StaticFiles(directory=PAGE)
    app.mount("/page", files)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the process lives."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Say whether requests are answered."""
        if not server.is_ready:
            raise Problem(503, "the server stops", code="stopping")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses=_are("text/plain"))
    async def metrics() -> Response:
        """Return counts for Prometheus."""
        return Response(server.metrics.text(), media_type=server.metrics.content_type)

    @app.get("/v1/models")
    async def models() -> ModelList:
        """List the models and their indexes."""
        return server.cards()

    @app.post("/v1/embeddings")
    async def embeddings(asked: EmbeddingsRequest) -> EmbeddingsAnswer:
        """Embed texts and images; as OpenAI's API."""
        return await server.embeddings(asked)

    @app.post("/v1/search")
    async def search(asked: SearchRequest) -> SearchAnswer:
        """Search an index by words or an image."""
        return await server.search(asked)

    @app.post("/v1/search/upload")
    async def search_upload(
        image: Annotated[UploadFile, File(description="An image file.")],
        index: Annotated[str | None, Form()] = None,
        find: Annotated[str | None, Form()] = None,
        k: Annotated[int, Form(ge=1)] = 10,
        min_precision: Annotated[float | None, Form(ge=0, le=1)] = None,
    ) -> SearchAnswer:
        """Search an index by an image file (multipart/form-data)."""
        content = checked_image(await image.read(), server.limits, "image")
        asked = SearchRequest(index=index, find=find, k=k, min_precision=min_precision)
        return await server.search(asked, content)

    @app.post("/v1/classify")
    async def classify(asked: ClassifyRequest) -> ClassifyAnswer:
        """Classify an image among names (zero-shot)."""
        return await server.classify(asked)

    decoding = asyncio.Semaphore(DECODED)

    @app.get(
        "/v1/rows/{index}/{modality}/{number}/image",
        response_class=Response,
        responses=_are("image/jpeg"),
    )
    async def row_image(
        index: str, modality: str, number: Annotated[int, PathValue(ge=0, lt=1 << 63)]
    ) -> Response:
        """Return a small JPEG of an image of an index."""
        chosen = server.chosen(index, "index")
        async with decoding:
            content = await asyncio.to_thread(chosen.small_copy, modality, number)
        cached = {"cache-control": "private, max-age=3600"}
        return Response(content, media_type="image/jpeg", headers=cached)


def _are(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {kind: {}}}}


def _add_errors(app: FastAPI) -> None:
    async def refused(_: Request, error: Any) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    async def mistaken(_: Request, error: Any) -> Response:
        message = " ".join(str(error).split())
        return JSONResponse(error_body(400, shortened(message), code="invalid_value"), 400)

    async def invalid(_: Request, error: Any) -> Response:
        first = error.errors()[0]
        place = shortened(
            ".".join(str(part) for part in first["loc"] if not UNNAMED.match(str(part)))
        )
        message = f"{place}: {first['msg']}" if place else first["msg"]
        return JSONResponse(error_body(400, message, code="invalid", param=place or None), 400)

    async def unknown(_: Request, error: Any) -> Response:
        body = error_body(error.status_code, str(error.detail), code="http")
        return JSONResponse(body, error.status_code, error.headers)

    async def ours(request: Request, error: Exception) -> Response:
        say(f"{request.method} {request.url.path}: {type(error).__name__}: {error}")
        return JSONResponse(error_body(500, "a mistake of the server", code="internal"), 500)

    for kind, handler in [
        (Problem, refused),
        (ContrastiveError, mistaken),
        (RequestValidationError, invalid),
        (HTTPException, unknown),
        (Exception, ours),
    ]:
        app.add_exception_handler(kind, handler)
