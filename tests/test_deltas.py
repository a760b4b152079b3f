"""Reading an upstream's event stream, whatever it is cut into."""

import json

import pytest

from deltas import (
    Delta,
    DeltaReader,
    Event,
    EventReader,
    PlaceholderFilter,
    merge_tool_calls,
)


def read(data: bytes, size: int) -> list[Event]:
    reader = EventReader()
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    events = [event for piece in pieces for event in reader.feed(piece)]
    return [*events, *reader.end()]


STREAM = (
    "event: a\r\ndata: 字\r\n\r\n: comment\n\ndata: x\ndata:y\n\nid: 3\ndata:  z\r\n\ndata: end"
)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1000])
def test_events_are_the_same_however_the_stream_is_cut(size: int) -> None:
    assert read(STREAM.encode(), size) == [
        Event(b"a", "字".encode()),
        Event(b"", b"x\ny"),
        Event(b"", b" z"),
        Event(b"", b"end"),
    ]


def chunk(**message: object) -> bytes:
    choice = {"index": 0, "delta": message}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def test_all_that_arrives_in_one_read_is_one_delta() -> None:
    data = chunk(reasoning="hm") + chunk(content="a") + chunk(content="b") + b"data: [DONE]\n\n"
    assert DeltaReader().feed(data) == Delta(text="ab", reasoning="hm", done=True)


def test_text_before_a_failure_in_the_same_read_is_kept() -> None:
    reader = DeltaReader()
    delta = reader.feed(chunk(content="kept") + b"data: {\n\n" + chunk(content="lost"))
    assert delta.text == "kept"
    assert reader.failure is not None
    assert reader.failure.status == 502


@pytest.mark.parametrize(
    "data",
    [
        '{"choices": null}',
        '{"choices": []}',
        '{"choices": [null]}',
        '{"choices": {"a": 1}}',
        '{"choices": [{"index": 0, "delta": null}]}',
        '{"choices": [{"index": 0, "delta": {"content": 5}}]}',
        '{"choices": [{"index": 1, "delta": {"content": "another choice"}}]}',
        '{"error": null, "usage": null}',
        "42",
        "null",
        "",
    ],
)
def test_what_says_nothing_is_passed_over(data: str) -> None:
    reader = DeltaReader()
    assert reader.feed(f"data: {data}\n\n".encode()) == Delta()
    assert reader.failure is None


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        ('{"error": {"message": "m", "code": 429}}', 429, "m"),
        ('{"error": {"message": "m", "code": "402"}}', 402, "m"),
        ('{"error": {"message": "m", "code": "rate_limit", "status": 429}}', 429, "m"),
        ('{"error": {"message": "m", "code": 500}}', 502, "m"),
        ('{"error": {"code": "x"}}', 502, "The upstream failed without a reason"),
        ('{"error": "a sentence"}', 502, "a sentence"),
    ],
)
def test_an_error_inside_the_stream_has_its_own_status_and_sentence(
    data: str, status: int, detail: str
) -> None:
    reader = DeltaReader()
    reader.feed(f"data: {data}\n\n".encode())
    assert reader.failure is not None
    assert (reader.failure.status, reader.failure.detail) == (status, detail)


def test_what_cannot_be_stored_is_replaced() -> None:
    data = chunk(content="a\0b") + b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n'
    assert DeltaReader().feed(data).text == "a\ufffdb\ufffd"


def test_tool_calls_are_put_together_however_oddly_they_come() -> None:
    calls: list[dict[str, object]] = []
    pieces: list[dict[str, object]] = [
        {"index": 1, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "", "type": None, "function": {"arguments": '{"x":'}},
        {"index": 1, "function": {"name": None, "arguments": " 1}"}},
        {"index": 0, "id": "b", "function": {"name": "g", "arguments": {"y": 2}}},
        {"id": "c", "function": None},
    ]
    merge_tool_calls(calls, pieces)
    assert [(call.get("id"), call.get("function")) for call in calls] == [
        ("a", {"name": "f", "arguments": '{"x": 1}'}),
        ("b", {"name": "g", "arguments": '{"y": 2}'}),
        ("c", None),
    ]


ANSWER = 'The answer says "Thinking... (3s elapsed)" and *Thinking...*'


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("before", "reasoning"),
    [
        ("", ""),
        ("Thinking... (1s elapsed)", ""),
        ("Thinking... (9s elapsed)\nThinking... (10s elapsed)\n\n", ""),
        ("*Thinking...*\n\n> first\n> second\n\n", "first\nsecond\n"),
        ("Thinking... (1s elapsed)*Thinking...*\n\n> a\n>\n> b\n\n", "a\n\nb\n"),
    ],
)
def test_placeholders_before_an_answer_never_reach_it(
    before: str, reasoning: str, size: int
) -> None:
    assert filtered(before + ANSWER, size) == (ANSWER, reasoning)


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "Thinking... is a verb",
        "Thinking...",
        "Thinking... (",
        "*Thinking...*",
        "*Thinking...* is bold",
        "*Thinking...*\n\nno quotation",
        "  indented",
        "*",
        "",
    ],
)
def test_an_answer_that_only_looks_like_a_placeholder_survives(text: str, size: int) -> None:
    assert filtered(text, size) == (text, "")


def test_thoughts_without_an_answer_are_reasoning_as_they_come() -> None:
    filter_ = PlaceholderFilter()
    read = [
        filter_.feed(Delta(text=text)) for text in ("*Thinking...*\n\n", "> so", " far\n>", " and")
    ]
    assert [delta.reasoning for delta in read] == ["", "so", " far\n", "and"]
    assert filtered("*Thinking...*\n\n" + "> line\n" * 5000, 10_000_000) == ("", "line\n" * 5000)


def filtered(text: str, size: int) -> tuple[str, str]:
    filter_ = PlaceholderFilter()
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    deltas = [filter_.feed(Delta(text=piece)) for piece in pieces]
    deltas += [filter_.feed(Delta(finish_reason="stop")), filter_.end()]
    return "".join(d.text for d in deltas), "".join(d.reasoning for d in deltas)
