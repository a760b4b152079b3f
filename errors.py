"""The few typed errors, and the handlers that make every one of them `{"detail": ...}`.

ServiceError            status, one sentence, perhaps headers and extra fields
  NotFound              404
  Conflict              409
  Invalid               422
  UpstreamError         a provider refused, broke off or cannot be reached
  StorageError          507 or 503: the database file cannot be written
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

TOO_LARGE = "The body is larger than MAX_BODY_MB allows"


class ServiceError(Exception):
    """An answer other than success: `status`, and one sentence that a person can act on.

    `extra` joins the body.
    """

    status = 500

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status or type(self).status
        self.headers = headers
        self.extra = extra or {}


class NotFound(ServiceError):
    """What the request names does not exist; `what` is its kind ("Conversation")."""

    status = 404

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} not found")


class Conflict(ServiceError):
    """What is asked clashes with what is there."""

    status = 409


class Invalid(ServiceError):
    """The request cannot be carried out as it is worded; `field` is what is wrong in it."""

    status = 422

    def __init__(self, message: str, *, field: str) -> None:
        errors = [{"field": field, "message": message}]
        super().__init__(f"{field}: {message}", extra={"errors": errors})


class UpstreamError(ServiceError):
    """A provider refused the call, broke off, fell silent or cannot be reached."""

    status = 502


class StorageError(ServiceError):
    """The database file cannot be written: the disk is full (507) or refuses (503)."""

    status = 503


class FieldError(BaseModel):
    """One field that was refused, and why."""

    field: str
    message: str


class ErrorBody(BaseModel):
    """What every error answers."""

    detail: str


class InvalidBody(ErrorBody):
    """What a 422 answers."""

    errors: list[FieldError]


def install(app: FastAPI) -> None:
    """Register the handlers: whatever goes wrong, the body has a `detail`."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(Exception, _unexpected)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    body = {"detail": error.detail, **error.extra}
    if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        body.setdefault("errors", [{"field": "body", "message": error.detail}])
    return JSONResponse(body, error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = TOO_LARGE if error.status_code == 413 else error.detail
    return JSONResponse({"detail": detail}, error.status_code, headers=error.headers)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    for problem in problems:
        if problem["loc"][0] == "path":
            # A path that cannot name anything names nothing: /messages/0, /messages/abc.
            what = str(problem["loc"][1]).removesuffix("_id").capitalize()
            return await _service_error(request, NotFound(what))
    errors = [FieldError(field=_field(p["loc"]), message=_message(p["msg"])) for p in problems]
    return JSONResponse(
        InvalidBody(detail=_sentence(errors), errors=errors).model_dump(),
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # The server logs the traceback; the caller gets a sentence and no inside view.
    return JSONResponse({"detail": "Internal error: the service's log says more"}, 500)


def _field(location: Sequence[int | str]) -> str:
    """`("body", "options", "x")` is `options.x`; the body as a whole is `body`."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])


def _message(message: str) -> str:
    return message.removeprefix("Value error, ")


def _sentence(errors: list[FieldError]) -> str:
    first, rest = errors[0], len(errors) - 1
    more = f" (and {rest} more)" if rest else ""
    return f"{first.field}: {first.message}{more}"
