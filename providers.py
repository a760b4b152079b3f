"""Poe, OpenAI and echo: which one a model names, with which key, and an open chat with it."""

import asyncio
import math
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import SecretStr

from deltas import Delta, DeltaReader, PlaceholderFilter, read_completion
from errors import Invalid, ServiceError, UpstreamError
from settings import Settings

if TYPE_CHECKING:
    from upstream import Answer, Upstream

ECHO = "echo"
MAX_KEY_LENGTH = 4096
# What may still follow a finish reason: the usage. A reply does not wait long for it.
USAGE_PATIENCE = 5.0
# The end of the body follows `[DONE]` at once, or not at all.
DRAIN_PATIENCE = 0.05
# Echo's pace: a word every 20 ms; of a long message several at once, so that it takes a second.
ECHO_PAUSE, ECHO_STEPS = 0.02, 50
# A word with the blanks before it; a Chinese or Japanese character is a word.
WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+)|\s+")


class Chat(Protocol):
    """An open reply: iterate for its deltas, and close it, read to the end or not."""

    def __aiter__(self) -> AsyncIterator[Delta]: ...
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
        return {**keys, ECHO: True}

    def resolve(self, model: str | None, bearer: str | None) -> Target:
        """Where `model` goes and with which key. Invalid without a model, 401 without a key."""
        name = model or self._settings.default_model
        provider: str = self._settings.default_provider
        if name == ECHO or (name is None and provider == ECHO):
            return Target(ECHO, ECHO, SecretStr(""))
        if name is None:
            raise Invalid("none is named: give one, or set DEFAULT_MODEL", field="model")
        prefix, slash, rest = name.partition("/")
        if slash and rest and prefix in self._endpoints:
            provider, name = prefix, rest
        if provider == ECHO:
            return Target(ECHO, name, SecretStr(""))
        return Target(provider, name, self._key(provider, bearer))

    def _key(self, provider: str, bearer: str | None) -> SecretStr:
        setting = f"{provider.upper()}_API_KEY"
        own = self._endpoints[provider].key
        if own is not None:
            return _fit(own.get_secret_value(), provider, setting)
        if self._settings.access_token is not None:
            raise _unauthorized(f"No key for {provider}: set {setting}")
        if not bearer or not re.fullmatch(r"[!-~]+", bearer):
            raise _unauthorized(
                f"No key for {provider}: set {setting}, or send a key as `Authorization: Bearer`"
            )
        if len(bearer) > MAX_KEY_LENGTH:
            raise _unauthorized("The key in `Authorization: Bearer` is too long to be one")
        return _fit(bearer, provider, setting)

    async def open_chat(
        self, target: Target, messages: list[dict[str, Any]], options: dict[str, Any]
    ) -> Chat:
        """Ask for a streamed reply; returns once the provider has accepted, else UpstreamError."""
        if target.provider == ECHO:
            return EchoChat(messages)
        body = {
            **options,
            "model": target.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        url = f"{self._endpoints[target.provider].base_url}/chat/completions"
        upstream = await self.connect()
        answer = await upstream.post(url, target.key.get_secret_value(), body)
        if answer.media_type not in ("text/event-stream", "application/json"):
            await answer.aclose()
            raise UpstreamError(f"{target.provider} answered with something that is not a chat")
        return UpstreamChat(answer, PlaceholderFilter() if target.provider == "poe" else None)

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


class UpstreamChat:
    """A reply read from an upstream's answer, event stream or not."""

    def __init__(self, answer: "Answer", filter_: PlaceholderFilter | None) -> None:
        self._answer = answer
        self._filter = filter_

    async def __aiter__(self) -> AsyncIterator[Delta]:
        try:
            async for delta in self._deltas():
                yield self._filter.feed(delta) if self._filter else delta
            if self._filter:
                yield self._filter.end()
        except UpstreamError as error:
            if self._filter:
                yield self._filter.end()
            raise self._answer.redact(error) from None

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
                    return
                raise
            delta = reader.feed(chunk)
            finished = finished or delta.finish_reason is not None
            yield delta
            if delta.done or (finished and reader.failure):
                await self._drain(chunks)
                return
            if reader.failure:
                raise reader.failure
        yield reader.end()
        if reader.failure and not finished:
            raise reader.failure

    async def _drain(self, chunks: AsyncIterator[bytes]) -> None:
        """Read the end of the body too: only then can its connection serve the next turn."""
        with suppress(TimeoutError, UpstreamError):
            await asyncio.wait_for(anext(chunks, b""), DRAIN_PATIENCE)

    async def _whole(self) -> AsyncIterator[Delta]:
        body = b"".join([chunk async for chunk in self._answer])
        yield read_completion(body)


class EchoChat:
    """The last user message, word by word: a first run and a demo need nothing else."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        contents = (m["content"] for m in reversed(messages) if m["role"] == "user")
        content = next(contents, "")
        if isinstance(content, list):
            content = "\n".join(part["text"] for part in content if part["type"] == "text")
        self._words = WORD.findall(content)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        step = math.ceil(len(self._words) / ECHO_STEPS) or 1
        for start in range(0, len(self._words), step):
            yield Delta(text="".join(self._words[start : start + step]))
            await asyncio.sleep(ECHO_PAUSE)
        yield Delta(finish_reason="stop", done=True)

    async def aclose(self) -> None:
        """Nothing is held."""


def _fit(key: str, provider: str, setting: str) -> SecretStr:
    """The key, unless it is Poe's and would go to somebody else."""
    if key.lower().startswith("poe-") and provider != "poe":
        raise _unauthorized(f"A Poe key is not sent to {provider}: set another {setting}")
    return SecretStr(key)


def _unauthorized(detail: str) -> ServiceError:
    return ServiceError(detail, status=401, headers={"WWW-Authenticate": "Bearer"})
