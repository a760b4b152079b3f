"""How much may be sent, held and asked at once."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from guard import MOST_MARKS, MarkCounter
from tests.conftest import Client, make_settings, serve, stream, wait_until
from tests.process import environment, run
from tests.test_follow import follow
from tests.upstream import Upstream

JSON = {"Content-Type": "application/json"}
LIMIT_MB = 5
CALL = {"model": "hello", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def small(tmp_path: Path, upstream: Upstream) -> Iterator[Client]:
    """A service that writes two replies at a time, and has three readers of them."""
    with serve(make_settings(tmp_path, upstream, max_turns=2, max_followers=3)) as client:
        yield client


def check_too_many(answer: Any, setting: str) -> None:
    assert answer.status_code == 429, answer.text
    assert answer.headers["retry-after"].isdecimal()
    assert setting in answer.json()["detail"]


def test_a_turn_too_many_is_refused_and_nothing_of_it_is_stored(
    small: Client, upstream: Upstream
) -> None:
    with ExitStack() as running:
        for _ in range(2):
            running.enter_context(stream(small, small.create(model="gate"))).next()
        chat = small.create(model="hello")
        check_too_many(small.say(chat, "hi"), "MAX_TURNS")
        check_too_many(small.say(chat, "hi", stream=True), "MAX_TURNS")
        refused = small.post("/v1/chat/completions", json={**CALL, "store": True})
        check_too_many(refused, "MAX_TURNS")
        assert "error" in refused.json()
        assert small.history(chat) == []
        assert len(small.get("/v1/chat/conversations").json()) == 3
        upstream.open_gate()
    wait_until(lambda: small.say(chat, "hi").status_code == 200)


def test_a_follower_too_many_is_refused_until_another_leaves(
    small: Client, upstream: Upstream
) -> None:
    chat = small.create(model="gate")
    with ExitStack() as readers:
        held = [readers.enter_context(stream(small, chat))]
        reply_id = held[0].next()["assistant_message_id"]
        path = f"/v1/chat/messages/{reply_id}/stream"
        held += [readers.enter_context(follow(small, reply_id)) for _ in range(2)]
        check_too_many(small.get(path), "MAX_FOLLOWERS")
        check_too_many(small.say(small.create(model="hello"), "hi"), "MAX_FOLLOWERS")
        check_too_many(small.post("/v1/chat/completions", json=CALL), "MAX_FOLLOWERS")
        assert small.history(chat)[-1]["status"] == "streaming"
    upstream.open_gate()
    wait_until(lambda: small.get(path).status_code == 200)


def test_a_flood_of_turns_is_refused_or_served_and_the_rest_goes_on(small: Client) -> None:
    chats = [small.create(model="words:3:0.02") for _ in range(40)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda chat: small.say(chat, "hi"), chats))
    assert {answer.status_code for answer in answers} == {200, 429}
    for chat, answer in zip(chats, answers, strict=True):
        assert len(small.history(chat)) == (2 if answer.status_code == 200 else 0)


def chunks(size: int) -> Iterator[bytes]:
    yield b'{"name": "'
    for _ in range(size // 65_536):
        yield b"x" * 65_536


def wide(opening: bytes, piece: bytes) -> bytes:
    return opening + piece * (LIMIT_MB * 990_000 // len(piece))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(lambda: b"x" * 10 * LIMIT_MB * 1_000_000, 413, id="declared"),
        pytest.param(lambda: chunks(10 * LIMIT_MB * 1_000_000), 413, id="in chunks"),
        pytest.param(lambda: wide(b"[", b"[],"), 422, id="many arrays"),
        pytest.param(lambda: wide(b"[", b"0,"), 422, id="many numbers"),
        pytest.param(lambda: wide(b"{", b'"":{},'), 422, id="many objects"),
        pytest.param(lambda: wide(b"[", b'"\\"",'), 422, id="many texts"),
        pytest.param(lambda: wide(b"", b"["), 422, id="deep"),
    ],
)
def test_no_refused_body_takes_more_than_three_times_the_limit_in_memory(
    tmp_path: Path, body: Any, status: int
) -> None:
    with run(environment(tmp_path, MAX_BODY_MB=str(LIMIT_MB)), dev=False) as service:
        service.client.post("/v1/projects", json={"name": "warm up"})
        idle = service.most_memory()
        answer = service.client.post("/v1/projects", content=body(), headers=JSON)
        growth = service.most_memory() - idle
        assert service.client.get("/health").status_code == 200
    assert answer.status_code == status
    assert "detail" in answer.json()
    print(f"{growth / 1e6:.1f} MB")
    assert growth < 3 * LIMIT_MB * 1_000_000


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_marks_are_counted_outside_of_texts_however_the_body_is_cut(size: int) -> None:
    text = rb'[{"a,[": "\\\\\",[{"}, "\\", ["]\\\"", 1, {}], "", ",,\u005c,"]'
    counter = MarkCounter()
    for start in range(0, len(text), size):
        counter.feed(text[start : start + size])
    assert counter.count == 10


def test_a_text_may_have_any_number_of_commas(client: Client) -> None:
    name, prompt = "n", ',[{"\\,' * MOST_MARKS
    chat = client.create(name=name, system_prompt=prompt)
    assert client.get(f"/v1/chat/conversations/{chat}").json()["system_prompt"] == prompt


@pytest.mark.parametrize("where", ["stream", "whole"])
@pytest.mark.parametrize("streamed", [True, False])
def test_what_an_upstream_nests_too_deep_is_its_failure_not_ours(
    client: Client, where: str, streamed: bool
) -> None:
    chat = client.create(model=f"deep:{where}")
    answer = client.say(chat, "hi", stream=streamed)
    assert "not JSON" in answer.text
    reply = client.history(chat)[-1]
    assert reply["content"] == ("text" if where == "stream" else "")
    call = {**CALL, "model": f"deep:{where}", "stream": streamed, "store": True}
    assert "not JSON" in client.post("/v1/chat/completions", json=call).text


@pytest.mark.long
@pytest.mark.parametrize("kind", ["line", "event", "json"])
def test_an_upstream_that_never_ends_a_piece_is_hung_up_on(
    client: Client, upstream: Upstream, kind: str
) -> None:
    answer = client.say(client.create(model=f"endless:{kind}"), "hi")
    assert answer.status_code == 502
    assert upstream.calls[-1].hung_up.wait(10)
    if kind != "event":  # those go on as they come
        call = {**CALL, "model": f"endless:{kind}", "stream": kind == "line"}
        passed_on = client.post("/v1/chat/completions", json=call)
        assert "more in one piece" in passed_on.text
        assert upstream.calls[-1].hung_up.wait(10)
