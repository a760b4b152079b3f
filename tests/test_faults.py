"""What may go wrong at the provider: each fault's status, text, and what the client is told.

Streamed, a fault after the stream has begun is its last event; unstreamed, it is the status.
A fault before that is an HTTP error both ways. None is ever `complete`, and none is a raw 500.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Client, make_settings, serve, stream
from tests.upstream import Upstream

TIMEOUT = 0.5


@dataclass
class Fault:
    """A scripted model and what must come of it."""

    model: str
    status: int = 502
    kept: str = ""
    begun: bool = True
    calls: int = 1


FAULTS = [
    Fault("cut:before-headers", begun=False),
    Fault("cut:after-headers"),
    Fault("cut:in-text", kept="half a "),
    Fault("cut:in-character", kept="half a "),
    Fault("silent", status=504, begun=False),
    Fault("stall", status=504, kept="two words"),
    Fault("stall-at-once", status=504),
    Fault("no-finish", kept="text"),
    Fault("bad-utf8", kept="text"),
    Fault("raw:data: {bad json", kept="text"),
    Fault('raw:data: {"error": {"message": "no"}}', kept="text"),
    Fault('raw:data: {"error": {"message": "no", "code": 402}}', status=402, kept="text"),
    Fault('raw:data: {"error": {"message": "no", "code": "529"}}', kept="text"),
    Fault('raw:data: {"error": "a string"}', kept="text"),
    Fault('raw:event: error\ndata: {"text": "as Poe\'s own protocol says it"}', kept="text"),
    Fault("redirect", begun=False),
    Fault("html", begun=False),
    Fault("html:500", begun=False),
    *(
        Fault(f"refuse:{status}", status=status, begun=False)
        for status in (400, 401, 402, 403, 404, 408, 409, 413, 422)
    ),
    Fault("refuse:500", begun=False),
    *(Fault(f"refuse:{status}", begun=False, calls=3) for status in (502, 503, 529)),
    Fault("refuse:429", status=429, begun=False, calls=3),
    Fault("refuse:429:0", status=429, begun=False, calls=3),
    Fault("refuse:429:60", status=429, begun=False),
    Fault("refuse:503:60", begun=False),
]

HARMLESS = {
    "no-done": "text",
    "raw:data: 42": "text",
    "raw:data: null": "text",
    'raw:data: {"choices": []}': "text",
    'raw:data: {"choices": null}': "text",
    'raw:data: {"choices": [{"index": 0, "delta": null}]}': "text",
    "raw:: a comment": "text",
    "raw:data:": "text",
    'raw:data: {"choices": [], "usage": {"total_tokens": 1}}': "text",
    "reasoning:reasoning": "answer",
    "reasoning:reasoning_content": "answer",
    "reasoning:reasoning_content:reasoning": "answer",
    "whole": "all at once",
    "cut-after-finish": "text",
    "big:5000000:1": "x" * 5_000_000,
    "crlf": "text",
}


@pytest.fixture
def hasty(tmp_path: Path, upstream: Upstream) -> Iterator[Client]:
    """A service that does not wait long for a silent provider."""
    with serve(make_settings(tmp_path, upstream, upstream_timeout=TIMEOUT)) as client:
        yield client


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.model)
def test_a_fault_is_told_and_the_text_before_it_kept(
    hasty: Client, upstream: Upstream, fault: Fault
) -> None:
    chats = [hasty.create(model=fault.model) for _ in range(2)]
    answer = hasty.say(chats[0], "hi")
    assert answer.status_code == fault.status, answer.text
    if fault.begun:
        with stream(hasty, chats[1]) as events:
            *_, final, done = events.rest()
        assert events.text == fault.kept
        assert (final["finish_reason"], done) == ("error", "[DONE]")
        assert final["error"] == {"detail": answer.json()["detail"], "status": fault.status}
    else:
        refused = hasty.say(chats[1], "hi", stream=True)
        assert (refused.status_code, refused.json()) == (fault.status, answer.json())
    for chat in chats:
        user, reply = hasty.history(chat)
        assert (user["content"], user["status"]) == ("hi", "complete")
        assert reply["status"] == ("interrupted" if fault.kept else "error")
        assert (reply["content"], reply["error"]) == (fault.kept, answer.json()["detail"])
    assert len(upstream.calls) == 2 * fault.calls


@pytest.mark.parametrize(("model", "text"), HARMLESS.items(), ids=list(HARMLESS))
def test_what_is_only_odd_does_no_harm(client: Client, model: str, text: str) -> None:
    chat = client.create(model=model)
    assert client.say(chat, "hi").json()["reply"] == text
    with stream(client, chat) as events:
        *_, final, done = events.rest()
    assert events.text == text
    assert (final["finish_reason"], done) == ("stop", "[DONE]")
    replies = [message for message in client.history(chat) if message["role"] == "assistant"]
    assert [(reply["status"], reply["content"]) for reply in replies] == [("complete", text)] * 2


def test_a_reply_of_a_hundred_megabytes_is_kept_whole(client: Client) -> None:
    chat = client.create(model="big:1000000:100")
    length = 0
    with stream(client, chat) as events:
        while (event := events.next()) != "[DONE]":
            length += len(event["content"])
            events.text = ""
    assert length == 100_000_000
    assert client.history(chat)[-1]["content"] == "x" * 100_000_000
