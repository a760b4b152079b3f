"""Reading a reply again, from anywhere, at any time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from settings import Settings
from tests.conftest import Client, Stream, serve, stream
from tests.upstream import Upstream

WORDS = "".join(f"w{number} " for number in range(20))


@contextmanager
def follow(client: Client, message_id: int, **arguments: Any) -> Iterator[Stream]:
    with client.stream("GET", f"/v1/chat/messages/{message_id}/stream", **arguments) as response:
        assert response.status_code == 200, response.read()
        yield Stream(response)


def finished(client: Client, model: str, content: str = "hi") -> int:
    """The id of a reply that has ended."""
    chat = client.create(model=model)
    client.say(chat, content)
    return int(client.history(chat)[-1]["id"])


def test_a_running_reply_is_followed_from_its_beginning(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="gate:3")
    with stream(client, chat) as first:
        told = first.next()
        while first.text != "w0 w1 w2 ":
            first.next()
        with follow(client, told["assistant_message_id"]) as second:
            assert second.next() == told
            while second.text != "w0 w1 w2 ":
                second.next()
            upstream.open_gate()
            assert second.rest()[-2:] == first.rest()[-2:]
    assert first.text == second.text == "w0 w1 w2 rest"


def test_every_event_counts_the_characters_before_it(client: Client) -> None:
    reply_id = finished(client, "repeat", "👋🏽 你好")
    body = client.get(f"/v1/chat/messages/{reply_id}/stream").text
    ids = [block.split("\n")[0] for block in body.removesuffix("\n\n").split("\n\n")]
    assert ids == ["id: 0", "id: 5", "id: 5", "id: done"]


@pytest.mark.parametrize("after", range(0, len(WORDS) + 2, 7))
@pytest.mark.parametrize("way", ["query", "header"])
def test_reading_goes_on_after_any_position(client: Client, after: int, way: str) -> None:
    reply_id = finished(client, "words:20")
    where: dict[str, Any] = {"headers": {"Last-Event-ID": str(after)}}
    if way == "query":
        where = {"params": {"after": after}}
    with follow(client, reply_id, **where) as events:
        *_, final, done = events.rest()
    assert events.text == WORDS[after:]
    assert (final["finish_reason"], done) == ("stop", "[DONE]")


@pytest.mark.parametrize(
    ("model", "text", "reason"),
    [
        ("hello", "你好, world!", "stop"),
        ("cut:in-text", "half a ", "error"),
        ("refuse:402", "", "error"),
    ],
)
def test_replies_are_followed_however_they_ended_and_after_a_restart(
    settings: Settings, upstream: Upstream, model: str, text: str, reason: str
) -> None:
    with serve(settings) as client:
        reply_id = finished(client, model)
        before = client.get(f"/v1/chat/messages/{reply_id}/stream").text
    with serve(settings) as client:
        with follow(client, reply_id) as events:
            *_, final, done = events.rest()
        assert client.get(f"/v1/chat/messages/{reply_id}/stream").text == before
    assert (events.text, final["finish_reason"], done) == (text, reason, "[DONE]")


def test_a_stopped_reply_is_followed_to_its_end(client: Client) -> None:
    chat = client.create(model="stall")
    with stream(client, chat) as events:
        first = events.next()
        while events.text != "two words":
            events.next()
        client.post("/v1/chat/stop-stream", json={"session_id": first["session_id"]})
    with follow(client, first["assistant_message_id"]) as again:
        *_, final, done = again.rest()
    assert (again.text, final["finish_reason"], done) == ("two words", "stopped", "[DONE]")


def test_reasoning_is_repeated_unless_the_position_is_beyond_it(client: Client) -> None:
    reply_id = finished(client, "reasoning:reasoning")
    with follow(client, reply_id) as events:
        thoughts = [event.get("reasoning") for event in events.rest()[:-1]]
    assert "".join(filter(None, thoughts)) == "hm, yes"
    with follow(client, reply_id, params={"after": 3}) as events:
        assert not any("reasoning" in event for event in events.rest()[:-1])
    assert events.text == "wer"


def test_many_may_follow_one_reply(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="gate:3")
    with stream(client, chat) as events, ThreadPoolExecutor(20) as pool:
        reply_id = events.next()["assistant_message_id"]

        def read(after: int) -> str:
            with follow(client, reply_id, params={"after": after}) as follower:
                follower.rest()
            return follower.text

        reading = [pool.submit(read, after) for after in range(20)]
        upstream.open_gate()
        events.rest()
    assert [future.result() for future in reading] == [events.text[n:] for n in range(20)]


def test_an_event_source_that_has_read_the_end_is_not_served_again(client: Client) -> None:
    reply_id = finished(client, "hello")
    headers = {"Last-Event-ID": "done"}
    answer = client.get(f"/v1/chat/messages/{reply_id}/stream", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "9" * 19, "1 OR 1"])
def test_a_position_that_is_none_is_refused(client: Client, last: str) -> None:
    reply_id = finished(client, "hello")
    path = f"/v1/chat/messages/{reply_id}/stream"
    assert client.get(path, headers={"Last-Event-ID": last}).status_code == 422
    assert client.get(path, params={"after": last if last != "9" * 19 else "-1"}).status_code == 422


def test_only_replies_can_be_followed(client: Client) -> None:
    reply_id = finished(client, "hello")
    for message_id in (reply_id - 1, reply_id + 1, 0):
        answer = client.get(f"/v1/chat/messages/{message_id}/stream")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Message not found"})
