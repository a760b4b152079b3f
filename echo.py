"""The built-in model that answers with the last user message, word by word, offline.

It speaks the same bytes as a provider, so that everything above it is tried by a first run and a
demo that need nothing.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any
from uuid import uuid4

NAME = "echo"
# A word every 20 ms; of a long message several at once, so that it takes a second.
PAUSE, STEPS = 0.02, 50
# A word with the blanks before it; a Chinese or Japanese character is a word.
WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+)|\s+")


class EchoAnswer:
    """An answer to a chat completion: iterate for its bytes, an event stream or one JSON object."""

    status = 200
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body
        self._words = WORD.findall(_last_question(body.get("messages")))
        self.media_type = "text/event-stream" if body.get("stream") else "application/json"
        self._common = {
            "id": f"chatcmpl-{uuid4().hex}",
            "created": int(time.time()),
            "model": body.get("model", NAME),
        }

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not self._body.get("stream"):
            yield self._whole()
            return
        step = math.ceil(len(self._words) / STEPS) or 1
        yield self._chunk({"role": "assistant", "content": ""})
        for start in range(0, len(self._words), step):
            yield self._chunk({"content": "".join(self._words[start : start + step])})
            await asyncio.sleep(PAUSE)
        yield self._chunk({}, "stop")
        wanted = self._body.get("stream_options")
        if isinstance(wanted, dict) and wanted.get("include_usage"):
            yield self._event(choices=[], usage=self._usage())
        yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        """Nothing is held."""

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        return self._event(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])

    def _event(self, **fields: Any) -> bytes:
        data = {**self._common, "object": "chat.completion.chunk", **fields}
        return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()

    def _whole(self) -> bytes:
        message = {"role": "assistant", "content": "".join(self._words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        data = {**self._common, "object": "chat.completion", "choices": [choice]}
        return json.dumps({**data, "usage": self._usage()}, ensure_ascii=False).encode()

    def _usage(self) -> dict[str, int]:
        """Words, for want of tokens."""
        count = len(self._words)
        return {"prompt_tokens": count, "completion_tokens": count, "total_tokens": 2 * count}


def _last_question(messages: object) -> str:
    """The text of the last user message, as far as there is one."""
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            texts = (part.get("text") for part in parts if isinstance(part, dict))
            return "\n".join(text for text in texts if isinstance(text, str))
    return ""
