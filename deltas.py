"""An upstream's event stream, read into deltas of text.

Only what a reply is made of is decoded: the text, the reasoning, the finish reason and the usage.
All the events that arrived in one read become one delta.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic_core import from_json

from errors import UpstreamError
from fields import repaired, storable

# Of one event; a chunk has one.
MOST_LINES = 10_000


@dataclass(slots=True)
class Delta:
    """What one read added to a reply."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    # Pieces of tool calls, each with the index of the call it belongs to.
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False
    # The bytes this was read from, for followers who speak OpenAI's API themselves.
    raw: bytes = b""


@dataclass(slots=True)
class Event:
    """One server-sent event: its name ("" where it has none) and its data."""

    name: bytes
    data: bytes


class EventReader:
    """Bytes in, whole events out; lines end in LF or CRLF and may be cut anywhere between reads."""

    def __init__(self) -> None:
        self._cut: list[bytes] = []
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        first, *lines = chunk.split(b"\n")
        self._cut.append(first)
        if lines:
            lines.insert(0, b"".join(self._cut))
            self._cut = [lines.pop()]
        for line in lines:
            if event := self._ended_by(line.removesuffix(b"\r")):
                yield event

    def end(self) -> Iterator[Event]:
        """The event that the end of the stream left without its blank line."""
        yield from self.feed(b"\n\n")

    def _ended_by(self, line: bytes) -> Event | None:
        """The event that a blank line ends; other lines are kept until then."""
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
                if len(self._data) > MOST_LINES:
                    raise UpstreamError("The upstream sent an event without an end")
            elif field == b"event":
                self._name = value.removeprefix(b" ")
            return None
        event = Event(self._name, b"\n".join(self._data)) if self._data else None
        self._name, self._data = b"", []
        return event


class DeltaReader:
    """Bytes of a streamed chat completion in, one delta out for each read.

    A failure inside the stream is kept in `failure` instead of raised, so that the text which came
    before it in the same read is not lost.
    """

    def __init__(self) -> None:
        self.failure: UpstreamError | None = None
        self._events = EventReader()

    def feed(self, chunk: bytes) -> Delta:
        return self._read(self._events.feed(chunk))

    def end(self) -> Delta:
        return self._read(self._events.end())

    def _read(self, events: Iterator[Event]) -> Delta:
        delta, text, reasoning = Delta(), list[str](), list[str]()
        try:
            for event in events:
                if event.data.strip() == b"[DONE]":
                    delta.done = True
                    break
                _add(_decode(event), delta, text, reasoning)
        except UpstreamError as failure:
            self.failure = failure
        delta.text, delta.reasoning = storable("".join(text)), storable("".join(reasoning))
        return delta


def read_completion(body: bytes) -> Delta:
    """The delta of an answer that came whole, as one JSON object."""
    chunk = _decode(Event(b"", body))
    delta, text, reasoning = Delta(done=True), list[str](), list[str]()
    _add(chunk, delta, text, reasoning)
    delta.text, delta.reasoning = storable("".join(text)), storable("".join(reasoning))
    return delta


def _decode(event: Event) -> dict[str, Any]:
    if not event.data.strip():
        return {}
    try:
        chunk = _from_json(event.data)
    except (ValueError, RecursionError):
        raise UpstreamError("The upstream sent something that is not JSON") from None
    if not isinstance(chunk, dict):
        return {}
    if event.name == b"error" or chunk.get("error"):
        raise _failure(chunk.get("error") or chunk)
    return chunk


def _from_json(data: bytes) -> Any:
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:
        # Half a surrogate pair or a number that is none is not worth a reply.
        return repaired(json.loads(data))


def _failure(error: Any) -> UpstreamError:
    """An error told inside the stream: an object or a plain sentence, with or without a status."""
    if not isinstance(error, dict):
        return UpstreamError(storable(str(error)))
    message = error.get("message") or error.get("text") or "The upstream failed without a reason"
    return UpstreamError(
        storable(str(message)), status=_status(error.get("code"), error.get("status"))
    )


def _status(*codes: Any) -> int:
    """The first code that is a 4xx status; any other failure is a 502 to our callers."""
    numbers = (int(code) for code in codes if str(code).isdecimal())
    return next((number for number in numbers if 400 <= number < 500), 502)


def _add(chunk: dict[str, Any], delta: Delta, text: list[str], reasoning: list[str]) -> None:
    """Collect one chunk; whatever is missing, null or of an unexpected type says nothing."""
    if isinstance(usage := chunk.get("usage"), dict):
        delta.usage = usage
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return
    choice = choices[0]
    if choice.get("index"):
        return
    if isinstance(reason := choice.get("finish_reason"), str):
        delta.finish_reason = storable(reason)
    message = choice.get("delta") or choice.get("message")
    if not isinstance(message, dict):
        return
    if isinstance(piece := message.get("content") or message.get("refusal"), str):
        text.append(piece)
    if isinstance(calls := message.get("tool_calls"), list):
        delta.tool_calls += (call for call in calls if isinstance(call, dict))
    # Two spellings of one thing; Poe sends both with equal text.
    if isinstance(piece := message.get("reasoning_content") or message.get("reasoning"), str):
        reasoning.append(piece)


def merge_tool_calls(calls: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> None:
    """Add pieces to the calls they belong to: names and ids come once, arguments in fragments."""
    for piece in pieces:
        place = piece.get("index", len(calls))
        call = next((known for known in calls if known.get("index", -1) == place), None)
        if call is None:
            call = {"index": place}
            calls.append(call)
        call.update({k: v for k, v in piece.items() if v and k not in ("index", "function")})
        function = piece.get("function")
        if isinstance(function, dict):
            said = call.setdefault("function", {"name": "", "arguments": ""})
            for name in ("name", "arguments"):
                value = function.get(name) or ""
                said[name] += value if isinstance(value, str) else json.dumps(value)


class PlaceholderFilter:
    """Takes Poe's thinking placeholders off the start of a reply, however it is cut.

    Poe's chat deltas cannot replace earlier text, so two forms reach us: a line a second
    (`Thinking... (1s elapsed)`), glued together, and `*Thinking...*`, a blank line, the thoughts as
    a quotation, a blank line. The first is dropped, the thoughts of the second are reasoning.
    Anything that only looks alike, and anything later in the reply, is text.

    Only what may still become a placeholder is held back, a few characters at most.
    """

    ELAPSED: ClassVar = re.compile(r"\s*Thinking\.\.\. \(\d+s elapsed\)")
    HEADING: ClassVar = re.compile(r"\s*\*Thinking\.\.\.\*[ \t]*\n\s*\n(?=>)")
    # Every beginning of these may go on to be one; digits and blank lines are counted as one.
    ELAPSED_FORM: ClassVar = "Thinking... (0s elapsed)"
    HEADING_FORM: ClassVar = "*Thinking...*\n"

    def __init__(self) -> None:
        self._read: Callable[[str, Delta], str] = self._read_start
        self._held = ""
        self._dropped = False

    def feed(self, delta: Delta) -> Delta:
        """The delta without placeholders."""
        text, delta.text, self._held = self._held + delta.text, "", ""
        while text:
            text = self._read(text, delta)
        return delta

    def end(self) -> Delta:
        """What was still held back when the stream ended."""
        text, self._held = self._held, ""
        return Delta(text=text)

    # Each of these reads what it knows about, names the one that reads on, and returns the rest.

    def _read_start(self, text: str, delta: Delta) -> str:
        while match := self.ELAPSED.match(text):
            text, self._dropped = text[match.end() :], True
        if match := self.HEADING.match(text):
            self._read = self._read_line_start
            return text[match.end() :]
        if self._undecided(text):
            self._held = text
            return ""
        self._read = self._read_blank if self._dropped else self._read_answer
        return text

    def _read_line_start(self, text: str, delta: Delta) -> str:
        """At the start of a line; the first without `>` ends the thoughts."""
        if text == ">":
            self._held = text
            return ""
        self._read = self._read_thought if text.startswith(">") else self._read_blank
        return text.removeprefix(">").removeprefix(" ") if text.startswith(">") else text

    def _read_thought(self, text: str, delta: Delta) -> str:
        line, end, rest = text.partition("\n")
        delta.reasoning += line + end
        if end:
            self._read = self._read_line_start
        return rest

    def _read_blank(self, text: str, delta: Delta) -> str:
        """Between what was dropped and the answer."""
        if answer := text.lstrip():
            self._read = self._read_answer
        return answer

    def _read_answer(self, text: str, delta: Delta) -> str:
        delta.text = text
        return ""

    def _undecided(self, text: str) -> bool:
        start = text.lstrip()[:64]
        if start.startswith("*"):
            start = re.sub(r"[ \t]*\n\s*", "\n", start)
            return self.HEADING_FORM.startswith(start)
        return self.ELAPSED_FORM.startswith(re.sub(r"\d+", "0", start))
