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

from errors import UpstreamError, redact
from fields import UNSTORABLE, repaired

CONNECT_TIMEOUT = 10.0
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

    async def post(self, url: str, key: str, body: dict[str, Any], *, faithful: bool) -> "Answer":
        """Send one call; its answer, headers received. UpstreamError with our caller's status.

        Repeated only while nothing of an answer has arrived and the server cannot have begun one:
        it could not be reached, or it refused with a status that asks to come back. A `faithful`
        call is made once and its refusal passed on as it is: its caller repeats as it sees fit.
        """
        for attempt in range(ATTEMPTS):
            try:
                return Answer(await self._send(url, key, body))
            except (httpx2.HTTPError, aiohttp.ClientError):
                raise UpstreamError("The upstream broke off in its refusal") from None
            except OpenAIError as error:
                pause = None if faithful else _pause(error, attempt)
                if pause is None:
                    raise _translate(error, key, faithful) from None
                await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def get(self, url: str, key: str | None, patience: float) -> bytes:
        """The body of a small answer. UpstreamError if there is none."""
        authorization = Omit() if key is None else f"Bearer {key}"
        try:
            response = await self._client.get(
                url,
                cast_to=httpx2.Response,
                options={"headers": {"Authorization": authorization}, "timeout": patience},
            )
        except (httpx2.HTTPError, aiohttp.ClientError):
            raise UpstreamError("The upstream broke off") from None
        except OpenAIError as error:
            raise _translate(error, key or "", faithful=False) from None
        return response.content

    async def _send(self, url: str, key: str, body: dict[str, Any]) -> httpx2.Response:
        response = await self._client.post(
            url,
            cast_to=httpx2.Response,
            body=body,
            options={"headers": {"Authorization": f"Bearer {key}"}},
            stream=True,
            stream_cls=AsyncStream[Any],
        )
        return cast(httpx2.Response, response)  # what `cast_to` asked for, its body unread


class Answer:
    """An answer whose body is being read: iterate for its bytes, and close it.

    The first read begins at once: when the connection breaks, its transport throws away what has
    arrived and not been read.
    """

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._first = asyncio.ensure_future(anext(self._chunks, b""))
        self.status = int(response.status_code)
        self.headers: Mapping[str, str] = _told(response.headers)
        kind: str = response.headers.get("content-type", "")
        self.media_type = kind.partition(";")[0].strip().lower()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            if first := await self._first:
                yield first
            async for chunk in self._chunks:
                yield chunk
        except httpx2.TimeoutException:
            raise UpstreamError("The upstream fell silent", status=504) from None
        except (httpx2.HTTPError, aiohttp.ClientError):
            raise UpstreamError("The upstream broke off") from None

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


def _translate(error: OpenAIError, key: str, faithful: bool) -> UpstreamError:
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


def _refusal(error: APIStatusError, key: str, faithful: bool) -> UpstreamError:
    sentence = _sentence(error.body, key) or f"The upstream answered {error.status_code}"
    if faithful and error.status_code >= 400:
        told = repaired(json.loads(redact(json.dumps(error.body), key)))
        extra = {"error": told} if isinstance(told, dict) else None
        headers = _told(error.response.headers)
        return UpstreamError(sentence, status=error.status_code, headers=headers, extra=extra)
    status = error.status_code if 400 <= error.status_code < 500 else 502
    refusal = UpstreamError(sentence, status=status, headers=_again(error))
    refusal.too_long = status == 413 or error.code == "context_length_exceeded"
    return refusal


def _again(error: APIStatusError) -> dict[str, str]:
    return {k: v for k, v in _told(error.response.headers).items() if k == "retry-after"}


def _told(headers: httpx2.Headers) -> dict[str, str]:
    """The headers of an answer that clients of OpenAI's API read."""
    return {
        name: value
        for name, value in headers.items()
        if TOLD.fullmatch(name) and PRINTABLE.fullmatch(value)
    }


def _hung_up(error: OpenAIError) -> bool:
    return error.__cause__ is not None and isinstance(
        error.__cause__.__cause__, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError
    )


def _sentence(body: object, key: str) -> str | None:
    """The upstream's own words in an error's body, or None where it has none for a person."""
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error")
    if not isinstance(body, str) or body.lstrip().startswith("<"):
        return None
    return redact(" ".join(UNSTORABLE.sub("", body).split()), key)[:500] or None
