"""The models of all providers in one list, kept for a while.

A provider that fails leaves the others alone and its own last good list in place.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

import echo
import poe
from errors import UpstreamError
from fields import repaired
from providers import Providers

# Seconds for which a list is served without asking again, and a failure without trying again.
KEPT, KEPT_AFTER_FAILURE = 600.0, 30.0
# Lists of this many keys are kept; a person has one or two.
MOST_LISTS = 16

Model = dict[str, Any]


@dataclass
class _List:
    """What one provider lists to one key."""

    models: list[Model] = field(default_factory=list)
    until: float = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Catalogue:
    """Every model that can be asked, under the name that leads to it."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers
        self._lists: dict[tuple[str, SecretStr | None], _List] = {}

    async def models(self, bearer: SecretStr | None) -> list[Model]:
        """Models in OpenAI's shape: `poe/…`, `openai/…` and `echo`; `created` in seconds."""
        listable = self._providers.listable(bearer)
        lists = await asyncio.gather(*(self._list(name, key) for name, key in listable))
        built_in = {"id": echo.NAME, "object": "model", "created": 0, "owned_by": "built in"}
        return [built_in, *(model for models in lists for model in models)]

    async def _list(self, provider: str, key: SecretStr | None) -> list[Model]:
        while len(self._lists) >= MOST_LISTS and (provider, key) not in self._lists:
            del self._lists[next(iter(self._lists))]
        kept = self._lists.setdefault((provider, key), _List())
        async with kept.lock:
            if time.monotonic() >= kept.until:
                try:
                    kept.models = _read(provider, await self._providers.list_models(provider, key))
                    kept.until = time.monotonic() + KEPT
                except UpstreamError:
                    kept.until = time.monotonic() + KEPT_AFTER_FAILURE
        return kept.models


def _read(provider: str, body: bytes) -> list[Model]:
    """The models in a provider's answer; of a model everything but its id is optional."""
    try:
        listed = repaired(json.loads(body)["data"])
        return [_public(provider, model) for model in listed if isinstance(model["id"], str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UpstreamError(f"{provider} does not list its models as OpenAI does") from None


def _public(provider: str, model: Model) -> Model:
    created = model.get("created")
    return {
        "object": "model",
        "owned_by": provider,
        **model,
        "id": f"{provider}/{model['id']}",
        "created": poe.seconds(created) if isinstance(created, int) else 0,
    }
