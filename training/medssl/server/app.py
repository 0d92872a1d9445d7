"""The application: routes, errors as sentences, and the gate before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from medssl import __version__
from medssl.core.errors import UserError
from medssl.server.errors import as_user_error, status_of, without_paths
from medssl.server.gate import Gate, Limits
from medssl.server.routes import routes
from medssl.server.state import Server

OWN_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
"""Origins of pages of this machine."""


def build_app(server: Server, key: str, limits: Limits = Limits()) -> ASGIApp:
    """The application of a server, which is closed with it.

    Args:
        server: The server.
        key: First part of every path; empty for none.
        limits: Sizes and numbers of requests.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    # No documentation pages: they load scripts from elsewhere.
    app = FastAPI(
        title="medssl",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(routes(server))
    _say_errors(app, server)
    # Whoever knows the key may use it from any page: OHIF has an origin of its own.
    origins = {"allow_origins": ["*"]} if key else {"allow_origin_regex": OWN_PAGES}
    return CORSMiddleware(Gate(app, key, limits), allow_methods=["*"], allow_headers=["*"], **origins)


def _say_errors(app: FastAPI, server: Server) -> None:
    """Answer every error with its status and {"detail": one sentence}."""

    def said(status: int, text: str) -> Response:
        text = without_paths(text, server.scratch, server.project.root)
        return JSONResponse({"detail": text}, status)

    def user_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)
        return said(status_of(error), str(error))

    def system_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, OSError)
        return user_error(request, as_user_error(error))

    def no_memory(request: Request, error: Exception) -> Response:
        return said(503, "The server does not have enough memory for this image; try a smaller one.")

    def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = str(error.detail)
        if text == HTTPStatus(error.status_code).phrase:  # said by the framework
            text = f"There is no {request.method} {request.url.path.rpartition('/')[2] or 'call'} here."
        return said(error.status_code, text if text.endswith(".") else f"{text}.")

    def bad_request(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "The body"
        return said(422, f"{place}: {first['msg']}.")

    handlers: dict[type[Exception], Callable[[Request, Exception], Response]] = {
        UserError: user_error,
        OSError: system_error,
        MemoryError: no_memory,
        HTTPException: http_error,
        RequestValidationError: bad_request,
        Exception: lambda request, error: said(500, "The server failed; please report what it printed."),
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
