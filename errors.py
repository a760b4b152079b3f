"""The few typed errors, and the handlers that make every one of them `{"detail": ...}`.

ServiceError            status, one sentence, perhaps headers and extra fields
  NotFound              404
  Conflict              409
  Invalid               422
  UpstreamError         a provider refused, broke off or cannot be reached
  StorageError          507 or 503: the database file cannot be written
"""

import asyncio
import errno
import logging
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

TOO_LARGE = "The body is larger than MAX_BODY_MB (or 512 MB, for an import) allows"
STOPPING = "The service was stopped before it was done"
SENTENCES = {
    404: "There is nothing at this path: see /docs",
    405: "This path does not take this method: see /docs",
    413: TOO_LARGE,
}
# A body may be wrong in a million places; a person reads the first few.
MOST_ERRORS = 20
# Here callers speak OpenAI's API: an error has its `error` object beside our `detail`.
OPENAI_PATHS = ("/v1/models", "/v1/chat/completions", "/v1/responses", "/v1/embeddings")
OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
KEY_LIKE = re.compile(r"\b(?:sk|poe)-[\w*.-]{6,}")
# Shorter ones are no secrets but words for servers that want any key at all.
SHORTEST_KEY = 8
REDACTED = "[key]"


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
        headers: Mapping[str, str] | None = None,
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
    """A provider refused the call, broke off, fell silent or cannot be reached.

    `too_long` is set where it refused because the conversation does not fit the model.
    """

    status = 502
    too_long = False


class StorageError(ServiceError):
    """The database file cannot be written: the disk is full (507) or refuses (503)."""

    status = 503


def disk_full() -> StorageError:
    return StorageError("The disk is full: free some space and try again", status=507)


def behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then what it came of, back to the first."""
    while error is not None:
        yield error
        error = error.__context__


class FieldError(BaseModel):
    """One field that was refused, and why."""

    field: str
    message: str


class ErrorBody(BaseModel):
    """What every error answers."""

    detail: str


class OpenAIError(BaseModel):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class OpenAIErrorBody(ErrorBody):
    """What every error answers on the paths of OpenAI's API."""

    error: OpenAIError


class InvalidBody(ErrorBody):
    """What a 422 answers."""

    errors: list[FieldError]


def redact(sentence: str, key: SecretStr | None) -> str:
    """A sentence of somebody else's without the key, or anything like one, that it may quote."""
    return KEY_LIKE.sub(REDACTED, without(key, sentence))


def without(key: SecretStr | None, text: str) -> str:
    """The text without the key."""
    if key is None or len(key) < SHORTEST_KEY:
        return text
    return text.replace(key.get_secret_value(), REDACTED)


def with_openai_error(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """An error's body with OpenAI's `error` object, unless the upstream's own is in it."""
    kind = OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": body["detail"], "type": kind, "param": None, "code": None}
    return {"error": error, **body}


def answer(
    path: str,
    status: int,
    body: dict[str, Any],
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error's answer in the one shape of all, with OpenAI's object on the paths that are its."""
    if path.startswith(OPENAI_PATHS):
        body = with_openai_error(status, body)
    return JSONResponse(body, status, headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Register the handlers: whatever goes wrong, the body has a `detail`."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(OSError, _os_error)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    body = {"detail": error.detail, **error.extra}
    if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        body.setdefault("errors", [{"field": "body", "message": error.detail}])
    return answer(request.scope["path"], error.status, body, error.headers)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # the framework's word for what it cannot parse
        return await _service_error(request, Invalid("is not JSON that can be read", field="body"))
    if error.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
        return await _service_error(request, Invalid(error.detail, field="body"))
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (allowed := _allowed(request)):
        headers["Allow"] = ", ".join(allowed)
    detail = SENTENCES.get(error.status_code, error.detail)
    return answer(request.scope["path"], error.status_code, {"detail": detail}, headers)


async def _os_error(request: Request, error: Exception) -> JSONResponse:
    """Uploads and archives are kept in files for a while, perhaps on a small disk of their own."""
    assert isinstance(error, OSError)
    if error.errno != errno.ENOSPC:
        raise error
    return await _service_error(request, disk_full())


def _allowed(request: Request) -> list[str]:
    """The methods that a path takes: its own, or those of the pattern that it fits."""
    path, paths = request.scope["path"], request.app.openapi()["paths"]
    fits = [taken for pattern, taken in paths.items() if compile_path(pattern)[0].match(path)]
    methods = paths.get(path) or (fits[0] if fits else {})
    return [method.upper() for method in methods]


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    for problem in problems:
        if problem["loc"][0] == "path":
            if request.scope["path"] in request.app.openapi()["paths"]:
                # A path of its own that another method takes: DELETE /documents/latest.
                return await _http_error(request, HTTPException(HTTPStatus.METHOD_NOT_ALLOWED))
            # A path that cannot name anything names nothing: /messages/0, /messages/abc.
            what = str(problem["loc"][1]).removesuffix("_id").capitalize()
            return await _service_error(request, NotFound(what))
    errors = [_field_error(problem) for problem in problems[:MOST_ERRORS]]
    first, more = errors[0], len(problems) - 1
    rest = f" (and {more} more)" if more else ""
    detail = f"{first.field}: {first.message}{rest}"
    body = InvalidBody(detail=detail, errors=errors)
    return answer(request.scope["path"], HTTPStatus.UNPROCESSABLE_ENTITY, body.model_dump())


def _field_error(problem: dict[str, Any]) -> FieldError:
    """One problem in a sentence of ours: where the framework's would repeat what was sent."""
    where = ".".join(str(part) for part in problem["loc"][1:]) or str(problem["loc"][0])
    if problem["type"] == "json_invalid":
        return FieldError(field="body", message="is not valid JSON")
    if problem["type"] == "union_tag_invalid":
        expected = problem["ctx"]["expected_tags"]
        return FieldError(field=where, message=f"Its type should be one of {expected}")
    return FieldError(field=where, message=problem["msg"].removeprefix("Value error, "))


class LastResort:
    """Makes a 500 of what nobody foresaw, inside the middleware that adds CORS headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:  # in the middle of its body: nobody is left to answer
            return
        except asyncio.CancelledError:  # by the server, which waited long enough
            if scope["type"] != "http" or started:
                raise
            await answer(scope["path"], 503, {"detail": STOPPING})(scope, receive, send)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            log.exception("%s %r failed in an unforeseen way", scope["method"], scope["path"])
            body = {"detail": "Internal error: the service's log says more"}
            await answer(scope["path"], 500, body)(scope, receive, send)
