"""Calls to an OpenAI-compatible server through the official client; the only importer of `openai`.

The client builds and sends requests; answers are read as raw bytes, because an object for every
chunk costs more than all the rest of a turn (about 200 µs against 10). This module is imported
late: `openai` takes almost as long to load as the rest of the service together.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import aiohttp
import httpx2
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AsyncStream,
    DefaultAioHttpClient,
    Omit,
    OpenAIError,
)
from pydantic import SecretStr

from errors import REDACTED, SHORTEST_KEY, UpstreamError, redact, without
from fields import UNSTORABLE, repaired

CONNECT_TIMEOUT = 10.0
# Bytes of an answer that cannot be worked off as they come: a line of a stream, or a whole body.
LARGEST_PIECE = 128 * 2**20
ATTEMPTS = 3
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
RETRIED = frozenset({429, 502, 503, 529})
PRINTABLE = re.compile(r"[ -~]{1,256}")
TOLD = re.compile(r"retry-after(-ms)?|x-request-id|x-should-retry|(x-ratelimit|openai|x-poe)-.+")


class Client(AsyncOpenAI):
    """The official client, deaf to the environment.

    Left alone it sends OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS to any server.
    """

    @property
    def default_headers(self) -> dict[str, Any]:
        return {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": f"AsyncOpenAI/Python {self._version}",
        }


class Upstream:
    """The connections to all providers; made at the first call, closed with the service."""

    def __init__(self, timeout: float, proxy: str | None) -> None:
        http_client = DefaultAioHttpClient(
            timeout=httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT),
            follow_redirects=False,
            trust_env=False,
            proxy=proxy,
        )
        self._client = Client(
            api_key="set-for-each-call",
            base_url="http://set-for-each-call.invalid",
            max_retries=0,
            http_client=http_client,
        )

    async def close(self) -> None:
        await self._client.close()

    async def post(
        self, url: str, key: SecretStr, body: dict[str, Any], *, faithful: bool
    ) -> "Answer":
        """Send one call; its answer, headers received. UpstreamError with our caller's status.

        Repeated only while nothing of an answer has arrived and the server cannot have begun one:
        it could not be reached, or it refused with a status that asks to come back. A `faithful`
        call is made once and its refusal passed on as it is: its caller repeats as it sees fit.
        """
        for attempt in range(ATTEMPTS):
            try:
                return Answer(await self._send(url, key, body), key)
            except (httpx2.HTTPError, aiohttp.ClientError):
                raise UpstreamError("The upstream broke off in its refusal") from None
            except OpenAIError as error:
                pause = None if faithful else _pause(error, attempt)
                if pause is None:
                    raise _translate(error, key, faithful) from None
                await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def get(self, url: str, key: SecretStr | None, patience: float) -> bytes:
        """The body of a small answer. UpstreamError if there is none."""
        authorization = Omit() if key is None else f"Bearer {key.get_secret_value()}"
        try:
            response = await self._client.get(
                url,
                cast_to=httpx2.Response,
                options={"headers": {"Authorization": authorization}, "timeout": patience},
            )
        except (httpx2.HTTPError, aiohttp.ClientError):
            raise UpstreamError("The upstream broke off") from None
        except OpenAIError as error:
            raise _translate(error, key, faithful=False) from None
        return response.content

    async def _send(self, url: str, key: SecretStr, body: dict[str, Any]) -> httpx2.Response:
        response = await self._client.post(
            url,
            cast_to=httpx2.Response,
            body=body,
            options={"headers": {"Authorization": f"Bearer {key.get_secret_value()}"}},
            stream=True,
            stream_cls=AsyncStream[Any],
        )
        return cast(httpx2.Response, response)  # what `cast_to` asked for, its body unread


class Answer:
    """An answer whose body is being read: iterate for its bytes, and close it.

    The first read begins at once: when the connection breaks, its transport throws away what has
    arrived and not been read. The key that was sent is taken out wherever the server quotes it.
    """

    def __init__(self, response: httpx2.Response, key: SecretStr) -> None:
        self._response = response
        self._key = key.get_secret_value().encode() if len(key) >= SHORTEST_KEY else b""
        self._held = b""
        self._unbroken = 0
        self._chunks = response.aiter_bytes()
        self._first = asyncio.ensure_future(anext(self._chunks, b""))
        self.status = int(response.status_code)
        self.headers: Mapping[str, str] = _told(response.headers, key)
        kind: str = response.headers.get("content-type", "")
        self.media_type = kind.partition(";")[0].strip().lower()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            if first := await self._first:
                yield self._checked(first)
            async for chunk in self._chunks:
                yield self._checked(chunk)
            if self._held:
                yield self._held
        except httpx2.TimeoutException:
            raise UpstreamError("The upstream fell silent", status=504) from None
        except (httpx2.HTTPError, aiohttp.ClientError):
            raise UpstreamError("The upstream broke off") from None

    def _checked(self, chunk: bytes) -> bytes:
        """The bytes without the key; what may be its beginning is held back for the next."""
        streamed = self.media_type == "text/event-stream"
        end = chunk.rfind(b"\n") + 1 if streamed else 0
        self._unbroken = len(chunk) - end + (0 if end else self._unbroken)
        if self._unbroken > LARGEST_PIECE:
            raise UpstreamError("The upstream sent more in one piece than can be kept")
        if not self._key:
            return chunk
        data, self._held = (self._held + chunk).replace(self._key, REDACTED.encode()), b""
        # Keys have no line ends in them, and most chunks end in one.
        if not data.endswith(b"\n"):
            split = len(data) - _overlap(data, self._key)
            data, self._held = data[:split], data[split:]
        return data

    async def aclose(self) -> None:
        self._first.cancel()
        await asyncio.gather(self._first, return_exceptions=True)
        await self._response.aclose()


def _pause(error: OpenAIError, attempt: int) -> float | None:
    """Seconds to wait before the next attempt, or None where there may be none."""
    if attempt + 1 == ATTEMPTS:
        return None
    if isinstance(error, APIStatusError):
        asked = _retry_after(error)
        if error.status_code not in RETRIED or asked > LONGEST_PAUSE:
            return None
        return float(max(asked, FIRST_PAUSE * 2**attempt * random.uniform(1, 1.25)))  # noqa: S311
    if _never_connected(error):
        return float(FIRST_PAUSE * 2**attempt)
    return None


def _retry_after(error: APIStatusError) -> float:
    value = error.response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value) else 0.0


def _never_connected(error: OpenAIError) -> bool:
    """Whether nothing can have been sent.

    The client's own exceptions do not tell: its transport reports a server that hung up before it
    answered, and may be at work on the reply, as a failure to connect. The cause beneath does.
    """
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return True
        cause = cause.__cause__
    return False


def _translate(error: OpenAIError, key: SecretStr | None, faithful: bool) -> UpstreamError:
    """Our error for the client's: the status for our caller, the upstream's own sentence."""
    if isinstance(error, APIStatusError):
        return _refusal(error, key, faithful)
    if _never_connected(error):
        return UpstreamError("The upstream cannot be reached")
    if isinstance(error, APITimeoutError) and not _hung_up(error):
        return UpstreamError("The upstream fell silent", status=504)
    if isinstance(error, APIConnectionError):
        return UpstreamError("The upstream broke off before it answered")
    return UpstreamError("The upstream's answer cannot be read")


def _refusal(error: APIStatusError, key: SecretStr | None, faithful: bool) -> UpstreamError:
    sentence = _sentence(error.body, key) or f"The upstream answered {error.status_code}"
    if faithful and error.status_code >= 400:
        told = repaired(json.loads(redact(json.dumps(error.body), key)))
        extra = {"error": told} if isinstance(told, dict) else None
        headers = _told(error.response.headers, key)
        return UpstreamError(sentence, status=error.status_code, headers=headers, extra=extra)
    status = error.status_code if 400 <= error.status_code < 500 else 502
    refusal = UpstreamError(sentence, status=status, headers=_again(error, key))
    refusal.too_long = status == 413 or error.code == "context_length_exceeded"
    return refusal


def _again(error: APIStatusError, key: SecretStr | None) -> dict[str, str]:
    return {k: v for k, v in _told(error.response.headers, key).items() if k == "retry-after"}


def _told(headers: httpx2.Headers, key: SecretStr | None) -> dict[str, str]:
    """The headers of an answer that clients of OpenAI's API read."""
    return {
        name: without(key, value)
        for name, value in headers.items()
        if TOLD.fullmatch(name) and PRINTABLE.fullmatch(value)
    }


def _overlap(data: bytes, key: bytes) -> int:
    """How many of the last bytes may be the beginning of the key."""
    return next((n for n in range(len(key) - 1, 0, -1) if data.endswith(key[:n])), 0)


def _hung_up(error: OpenAIError) -> bool:
    return error.__cause__ is not None and isinstance(
        error.__cause__.__cause__, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError
    )


def _sentence(body: object, key: SecretStr | None) -> str | None:
    """The upstream's own words in an error's body, or None where it has none for a person."""
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error")
    if not isinstance(body, str) or body.lstrip().startswith("<"):
        return None
    return redact(" ".join(UNSTORABLE.sub("", body).split()), key)[:500] or None
