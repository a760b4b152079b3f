"""The same request sent twice is one turn."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from settings import Settings
from tests.conftest import Client, database_file, serve, wait_until
from tests.process import environment, run
from tests.upstream import Upstream


def say(client: Client, chat: str, content: str = "hi", key: str = "k", **body: Any) -> Any:
    path = f"/v1/chat/conversations/{chat}/messages"
    headers = {"Idempotency-Key": key}
    body = {"role": "user", "content": content, **body}
    return client.post(path, json=body, headers=headers)


def test_a_finished_turn_is_repeated_not_asked_again(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="hello")
    first, second = say(client, chat), say(client, chat)
    assert second.json() == first.json()
    streamed = say(client, chat, stream=True).text
    assert '"content": "你好, world!"' in streamed
    assert streamed.endswith("data: [DONE]\n\n")
    assert len(client.history(chat)) == 2
    assert len(upstream.calls) == 1


def test_a_turn_is_repeated_under_a_loop_that_checks_its_threads(tmp_path: Path) -> None:
    with run(environment(tmp_path)) as service:
        chat = service.client.create(model="echo")
        assert say(service.client, chat).json() == say(service.client, chat).json()


def test_a_running_turn_is_joined(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="hold")
    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(say, client, chat, stream=number % 2 == 1) for number in range(6)]
        wait_until(lambda: upstream.calls)
        upstream.open_gate()
        answers: list[httpx2.Response] = [future.result() for future in asking]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["assistant_message_id"] for answer in answers[::2]}) == 1
    assert len({answer.text for answer in answers[1::2]}) == 1
    assert len(client.history(chat)) == 2
    assert len(upstream.calls) == 1


def test_a_key_that_was_used_is_answered_while_another_turn_runs(
    client: Client, upstream: Upstream
) -> None:
    chat = client.create(model="hello")
    first = say(client, chat, key="one").json()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(say, client, chat, key="two", model="hold")
        wait_until(lambda: len(upstream.calls) == 2)
        assert say(client, chat, key="one").json() == first
        assert say(client, chat, key="three").status_code == 409
        upstream.open_gate()
        assert running.result().status_code == 200


@pytest.mark.parametrize("running", [False, True])
def test_the_same_key_for_another_request_is_refused(
    client: Client, upstream: Upstream, running: bool
) -> None:
    chat = client.create(model="hold")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(say, client, chat)
        wait_until(lambda: upstream.calls)
        if not running:
            upstream.open_gate()
            first.result()
        refused = say(client, chat, "another")
        upstream.open_gate()
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
    assert len(client.history(chat)) == 2


def test_a_refused_turn_is_repeated_as_it_was(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="refuse:402")
    for streamed in (False, True, False):
        answer = say(client, chat, stream=streamed)
        assert (answer.status_code, answer.json()["detail"]) == (402, "No: Bearer [key]")
    assert len(upstream.calls) == 1


def test_a_turn_cut_off_by_a_crash_is_told_and_asked_again_only_on_purpose(
    settings: Settings, upstream: Upstream
) -> None:
    with serve(settings) as client:
        chat = client.create(model="hello")
        reply_id = say(client, chat).json()["assistant_message_id"]
    with database_file(settings) as file:
        file.execute("UPDATE message SET status = 'streaming' WHERE role = 'assistant'")
    with serve(settings) as client:
        answer = say(client, chat)
        assert answer.status_code == 503
        assert "ended before" in answer.json()["detail"]
        assert '"content": "你好, world!"' in say(client, chat, stream=True).text
        assert len(upstream.calls) == 1
        again = client.post(f"/v1/chat/messages/{reply_id}/regenerate", json={})
        assert again.json()["reply"] == "你好, world!"
        assert len(upstream.calls) == 2


def test_what_was_refused_before_it_was_stored_leaves_the_key_free(client: Client) -> None:
    chat = client.create()
    assert say(client, chat).status_code == 422
    assert say(client, chat, model="hello").status_code == 200


def test_a_message_that_asks_nothing_is_stored_once(client: Client) -> None:
    chat = client.create()
    ids = {say(client, chat, role="system").json()["user_message_id"] for _ in range(2)}
    assert len(ids) == len(client.history(chat)) == 1


def test_a_key_counts_in_its_own_conversation_only(client: Client) -> None:
    chats = [client.create(model="hello") for _ in range(2)]
    assert {say(client, chat).status_code for chat in chats} == {200}
    assert [len(client.history(chat)) for chat in chats] == [2, 2]


@pytest.mark.parametrize("key", ["", "k" * 256, "é", "tab\tbed"])
def test_a_key_that_is_none_is_refused(client: Client, key: str) -> None:
    chat = client.create(model="echo")
    path = f"/v1/chat/conversations/{chat}/messages"
    headers = {b"Idempotency-Key": key.encode()}
    answer = client.post(path, json={"role": "user", "content": "x"}, headers=headers)
    assert answer.status_code == 422
    assert client.history(chat) == []


def test_a_key_may_have_255_characters(client: Client) -> None:
    assert say(client, client.create(model="echo"), key="k" * 255).status_code == 200
