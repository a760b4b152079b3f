"""Poe, OpenAI and echo: which one a model names, with which key, and calls to it."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import SecretStr

import echo
import poe
from deltas import Delta, DeltaReader, PlaceholderFilter, read_completion
from errors import Invalid, ServiceError, UpstreamError, redact
from settings import Settings

if TYPE_CHECKING:
    from upstream import Upstream

MAX_KEY_LENGTH = 4096
# What may still follow a finish reason: the usage. A reply does not wait long for it.
USAGE_PATIENCE = 5.0
# The end of the body follows `[DONE]` at once, or not at all.
DRAIN_PATIENCE = 0.05
# A list of models is not worth the patience that a reply is.
LIST_TIMEOUT = 15.0
CHAT = "/chat/completions"
DONE_EVENT = re.compile(rb"^data: ?\[DONE\]", re.M)
EVENT_END = re.compile(rb"\n\r?\n")


class Answer(Protocol):
    """A provider's answer, its body unread: iterate for the bytes, and close it."""

    status: int
    headers: Mapping[str, str]
    media_type: str

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Target:
    """Where a turn goes: the provider, the model's name there, and the key."""

    provider: str
    model: str
    key: SecretStr


@dataclass(frozen=True)
class Endpoint:
    """A provider's address and the service's own key for it."""

    base_url: str
    key: SecretStr | None


class Providers:
    """All providers, and the connections to them; connections are made at the first call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._endpoints = {
            "poe": Endpoint(str(settings.poe_base_url).rstrip("/"), settings.poe_api_key),
            "openai": Endpoint(str(settings.openai_base_url).rstrip("/"), settings.openai_api_key),
        }
        self._connecting = asyncio.Lock()
        self._upstream: Upstream | None = None

    def configured(self) -> dict[str, bool]:
        """Which providers can be called with what the service itself has."""
        keys = {name: endpoint.key is not None for name, endpoint in self._endpoints.items()}
        return {**keys, echo.NAME: True}

    def resolve(self, model: str | None, bearer: SecretStr | None) -> Target:
        """Where `model` goes and with which key. Invalid without a model, 401 without a key."""
        name = model or self._settings.default_model
        provider: str = self._settings.default_provider
        if name == echo.NAME or (name is None and provider == echo.NAME):
            return Target(echo.NAME, echo.NAME, SecretStr(""))
        if name is None:
            raise Invalid("none is named: give one, or set DEFAULT_MODEL", field="model")
        prefix, slash, rest = name.partition("/")
        if slash and rest and prefix in self._endpoints:
            provider, name = prefix, rest
        if provider == echo.NAME:
            return Target(echo.NAME, name, SecretStr(""))
        return Target(provider, name, self._key(provider, bearer))

    def _key(self, provider: str, bearer: SecretStr | None) -> SecretStr:
        setting = f"{provider.upper()}_API_KEY"
        own = self._endpoints[provider].key
        if own is not None:
            return _fit(own, provider, setting)
        if self._settings.access_token is not None:
            raise _unauthorized(f"No key for {provider}: set {setting}")
        if bearer is None or not re.fullmatch(r"[!-~]+", bearer.get_secret_value()):
            raise _unauthorized(
                f"No key for {provider}: set {setting}, or send a key as `Authorization: Bearer`"
            )
        if len(bearer) > MAX_KEY_LENGTH:
            raise _unauthorized("The key in `Authorization: Bearer` is too long to be one")
        return _fit(bearer, provider, setting)

    async def open_chat(self, target: Target, body: dict[str, Any], faithful: bool) -> "Chat":
        """Ask for a reply; returns once the provider has accepted, else UpstreamError.

        `faithful` is for callers that speak OpenAI's API themselves: one attempt, nothing added,
        and a refusal as it came.
        """
        if not faithful:
            body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            answer = await self.forward(target, CHAT, body, faithful)
        except UpstreamError as error:
            if faithful or error.status != 400 or "stream_options" not in error.detail:
                raise
            # Added by us, and not every server knows it: the reply is worth more than its usage.
            del body["stream_options"]
            answer = await self.forward(target, CHAT, body, faithful)
        if answer.media_type not in ("text/event-stream", "application/json"):
            await answer.aclose()
            raise UpstreamError(f"{target.provider} answered with something that is not a chat")
        filter_ = PlaceholderFilter() if target.provider == "poe" else None
        return Chat(answer, filter_, target.key, keeps_raw=faithful)

    async def forward(
        self, target: Target, path: str, body: dict[str, Any], faithful: bool = True
    ) -> Answer:
        """Send a call where it belongs, under the model's name there; the answer, unread."""
        body = {**body, "model": target.model}
        if target.provider == echo.NAME:
            if path != CHAT:
                raise ServiceError("echo answers chat completions only", status=404)
            return echo.EchoAnswer(body)
        if target.provider == "poe" and path == CHAT:
            body = poe.request(body)
        upstream = await self.connect()
        url = self._endpoints[target.provider].base_url + path
        return await upstream.post(url, target.key, body, faithful=faithful)

    def listable(self, bearer: SecretStr | None) -> list[tuple[str, SecretStr | None]]:
        """The providers that can be asked for their models, each with the key to ask with.

        Poe lists its models to anybody.
        """
        listable: list[tuple[str, SecretStr | None]] = []
        for name in self._endpoints:
            try:
                listable.append((name, self._key(name, bearer)))
            except ServiceError:
                if name == "poe":
                    listable.append((name, None))
        return listable

    async def list_models(self, provider: str, key: SecretStr | None) -> bytes:
        """A provider's list of models as it sends it. UpstreamError if it does not."""
        upstream = await self.connect()
        return await upstream.get(f"{self._endpoints[provider].base_url}/models", key, LIST_TIMEOUT)

    async def poe_usage(self, path: str, bearer: SecretStr | None) -> bytes:
        """What Poe tells of points; that stands beside the API, not under its `/v1`."""
        key = self._key("poe", bearer)
        upstream = await self.connect()
        root = self._endpoints["poe"].base_url.removesuffix("/v1")
        return await upstream.get(f"{root}/usage/{path}", key, LIST_TIMEOUT)

    async def connect(self) -> "Upstream":
        """The connections; the first call loads the official client, which takes a while."""
        async with self._connecting:
            if self._upstream is None:
                module = await asyncio.to_thread(import_module, "upstream")
                proxy = self._settings.upstream_proxy
                self._upstream = module.Upstream(
                    self._settings.upstream_timeout, str(proxy) if proxy else None
                )
            return self._upstream

    async def close(self) -> None:
        if self._upstream is not None:
            await self._upstream.close()


class Chat:
    """A reply read from an answer, event stream or not: iterate for its deltas, and close it.

    With `keeps_raw` each delta brings the bytes it was read from.
    """

    def __init__(
        self,
        answer: Answer,
        filter_: PlaceholderFilter | None,
        key: SecretStr,
        *,
        keeps_raw: bool,
    ) -> None:
        self._answer = answer
        self._keeps_raw = keeps_raw
        self._filter = filter_
        self._key = key
        self._cut = b""

    async def __aiter__(self) -> AsyncIterator[Delta]:
        try:
            async for delta in self._deltas():
                yield self._filter.feed(delta) if self._filter else delta
            if self._filter:
                yield self._filter.end()
        except UpstreamError as error:
            if self._filter:
                yield self._filter.end()
            error.detail = redact(error.detail, self._key)
            raise

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    async def aclose(self) -> None:
        await self._answer.aclose()

    def _deltas(self) -> AsyncIterator[Delta]:
        streamed = self._answer.media_type == "text/event-stream"
        return self._stream() if streamed else self._whole()

    async def _stream(self) -> AsyncIterator[Delta]:
        reader = DeltaReader()
        chunks = aiter(self._answer)
        finished = False
        while True:
            try:
                # Once the text is whole, neither silence nor a broken connection can hurt it.
                chunk = await (
                    asyncio.wait_for(anext(chunks), USAGE_PATIENCE) if finished else anext(chunks)
                )
            except StopAsyncIteration:
                break
            except (TimeoutError, UpstreamError):
                if finished:
                    break
                raise
            delta = reader.feed(chunk)
            finished = finished or delta.finish_reason is not None
            if self._keeps_raw:
                delta.raw = self._whole_events(chunk, delta.done)
            yield delta
            if delta.done or (finished and reader.failure):
                await self._drain(chunks)
                return
            if reader.failure:
                raise reader.failure
        rest = reader.end()
        rest.raw = self._cut
        yield rest
        if reader.failure and not finished:
            raise reader.failure

    def _whole_events(self, chunk: bytes, done: bool) -> bytes:
        """The bytes of the events that end in this read, but `[DONE]`, which is ours to say."""
        data = self._cut + chunk
        ends = [match.start() for match in DONE_EVENT.finditer(data)] if done else []
        ends = ends or [match.end() for match in EVENT_END.finditer(data)]
        end = ends[-1] if ends else 0
        self._cut = data[end:]
        return data[:end]

    async def _drain(self, chunks: AsyncIterator[bytes]) -> None:
        """Read the end of the body too: only then can its connection serve the next turn."""
        with suppress(TimeoutError, UpstreamError):
            await asyncio.wait_for(anext(chunks, b""), DRAIN_PATIENCE)

    async def _whole(self) -> AsyncIterator[Delta]:
        body = b"".join([chunk async for chunk in self._answer])
        delta = read_completion(body)
        delta.raw = body
        yield delta


def _fit(key: SecretStr, provider: str, setting: str) -> SecretStr:
    """The key, unless it is Poe's and would go to somebody else."""
    if key.get_secret_value().lower().startswith("poe-") and provider != "poe":
        raise _unauthorized(f"A Poe key is not sent to {provider}: set another {setting}")
    return key


def _unauthorized(detail: str) -> ServiceError:
    return ServiceError(detail, status=401, headers={"WWW-Authenticate": "Bearer"})
