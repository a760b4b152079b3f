"""Who may call: the Host, Origin, token and content type of a request, before anything else runs.

The service is on the same machine as a browser, so a page on the web may try to reach it: under a
name of its own that resolves to 127.0.0.1 (so the Host must be ours), or with a plain form (so a
foreign Origin is refused whatever the method, and a body must be JSON).
What declares itself too large is refused here; what does not, while it is read.
"""

import hmac
import re
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import TOO_LARGE, ServiceError, answer
from settings import Settings

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
LOCAL_ORIGIN = (
    r"https?://(localhost|127\.0\.0\.1)(:\d{1,5})?|tauri://localhost|https?://tauri\.localhost"
)
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?", re.I)
JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;|$)", re.I)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
IMPORT_PATH = "/v1/import"
# What a file may be sent as. A page elsewhere could send a form too, but not without its Origin.
FILE_TYPE = re.compile(
    r"(application/(zip|x-zip-compressed|x-ndjson|octet-stream)|multipart/form-data)\s*(?:;|$)",
    re.I,
)
LARGEST_IMPORT = 512_000_000
# Of a request's line and headers. A key of 64 KB is none, but is told so.
LARGEST_HEAD = 128 * 1024
# What holds JSON's values apart; a value may take two bytes to send, and a hundred in memory.
MOST_MARKS = 350_000
OPEN_PATHS = frozenset({"/health"})


Check = Callable[[Scope, Headers], ServiceError | None]


class Guard:
    """Pure ASGI middleware: answers what its check refuses, and passes everything else on."""

    def __init__(self, app: ASGIApp, check: Check) -> None:
        self._app = app
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http":
            refusal = self._check(scope, Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            body = {"detail": refusal.detail}
            respond = answer(scope["path"], refusal.status, body, refusal.headers)
            await respond(scope, receive, send)


class OriginCheck:
    """Where a request comes from and whom it thinks it calls; it runs before anything else."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = LOCAL_HOSTS | {name.lower() for name in settings.allowed_hosts}
        self._origins = frozenset(settings.allowed_origins)

    def __call__(self, scope: Scope, headers: Headers) -> ServiceError | None:
        if _head_size(scope) > LARGEST_HEAD:
            return ServiceError("The headers are too large", status=431)
        if "content-length" in headers and "transfer-encoding" in headers:
            return ServiceError("Two headers disagree on where the body ends", status=400)
        if not self._host_allowed(headers.getlist("host")):
            return ServiceError(
                "The Host header names no host of this service: see ALLOWED_HOSTS", status=400
            )
        if not self._origin_allowed(scope["method"], headers):
            return ServiceError(
                "This origin may not call the service: see ALLOWED_ORIGINS", status=403
            )
        return None

    def _host_allowed(self, hosts: list[str]) -> bool:
        match = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        return match is not None and match[1].lower() in self._hosts

    def _origin_allowed(self, method: str, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        if not origins:
            # A page elsewhere may link to a page of ours, but neither load nor post anything.
            followed_link = method == "GET" and headers.get("sec-fetch-dest") == "document"
            return followed_link or headers.get("sec-fetch-site") != "cross-site"
        return len(origins) == 1 and (
            origins[0] in self._origins or re.fullmatch(LOCAL_ORIGIN, origins[0]) is not None
        )


class CallerCheck:
    """What a request must bear; it runs inside CORS, so that an allowed page can read why not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        token = settings.access_token
        self._token = token.get_secret_value().encode() if token else None

    def __call__(self, scope: Scope, headers: Headers) -> ServiceError | None:
        if scope["path"] not in OPEN_PATHS and not self._token_right(headers):
            detail = "Send the service's ACCESS_TOKEN as `Authorization: Bearer`"
            return ServiceError(detail, status=401, headers={"WWW-Authenticate": "Bearer"})
        if _length(headers) > largest_body(self._settings, scope["path"]):
            return ServiceError(TOO_LARGE, status=413)
        unsafe = scope["method"] not in SAFE_METHODS
        if unsafe and _has_body(headers) and not _takes(scope["path"], headers):
            return ServiceError(
                "Send the body as JSON, with Content-Type: application/json", status=415
            )
        return None

    def _token_right(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        sent = headers.getlist("authorization")
        scheme, _, given = (sent[0] if len(sent) == 1 else "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), self._token)
        return scheme.lower() == "bearer" and right


class BodyLimit:
    """Pure ASGI middleware: a body that turns out too large while it is read is refused.

    Too large in memory, too: what would make many small values is counted before it is parsed.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            # Such a body is read only by what watches, beside a stream, for the client to leave.
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        largest = largest_body(self._settings, path)
        marks, size = MarkCounter(), 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            body = message.get("body", b"")
            size += len(body)
            if size > largest:
                raise HTTPException(413, TOO_LARGE)
            if path != IMPORT_PATH:
                marks.feed(body)
            if marks.count > MOST_MARKS:
                told = f"may have {MOST_MARKS:,} commas and brackets at most, texts aside"
                raise HTTPException(422, told)
            return message

        await self._app(scope, counted, send)


class MarkCounter:
    """Counts the commas and opening brackets of a JSON text while it arrives, strings left out."""

    def __init__(self) -> None:
        self.count = 0
        self._in_string = False
        self._cut = b""

    def feed(self, chunk: bytes) -> None:
        text = (self._cut + chunk).replace(rb"\\", b"")
        self._cut = b"\\" if text.endswith(b"\\") else b""
        parts = text.removesuffix(b"\\").replace(rb"\"", b"").split(b'"')
        for part in parts[self._in_string :: 2]:
            self.count += part.count(b",") + part.count(b"[") + part.count(b"{")
        self._in_string ^= len(parts) % 2 == 0


def largest_body(settings: Settings, path: str) -> int:
    """The largest body that may be sent to a path, in bytes: a file to import may be larger."""
    largest = settings.max_body_size
    return max(largest, LARGEST_IMPORT) if path == IMPORT_PATH else largest


def _head_size(scope: Scope) -> int:
    line = len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) for name, value in scope["headers"])


def _length(headers: Headers) -> int:
    declared = headers.get("content-length", "0")
    return int(declared) if declared.isdecimal() else 0


def _has_body(headers: Headers) -> bool:
    return _length(headers) > 0 or "transfer-encoding" in headers


def _takes(path: str, headers: Headers) -> bool:
    """Whether a body of this one type is read here: JSON is everywhere, a file where files go."""
    kinds = headers.getlist("content-type")
    if len(kinds) != 1:
        return False
    is_file = path == IMPORT_PATH and FILE_TYPE.match(kinds[0]) is not None
    return is_file or JSON_TYPE.match(kinds[0]) is not None
