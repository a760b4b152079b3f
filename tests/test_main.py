"""`python main.py` as a person runs it."""

import signal
import sqlite3
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from main import VERSION
from tests.conftest import stream
from tests.process import environment, refused, run
from tests.upstream import Upstream


def test_the_first_chat_needs_no_key_and_no_network(tmp_path: Path) -> None:
    values = {"PATH": "", "PORT": "0", "DATABASE_PATH": str(tmp_path / "chat.db")}
    with run(values) as service:
        health = service.client.get("/health").json()
        assert health == {
            "status": "ok",
            "version": VERSION,
            "providers": {"poe": False, "openai": False, "echo": True},
        }
        chat = service.client.create()
        answer = service.client.say(chat, "你好 world", model="echo")
        assert answer.json()["reply"] == "你好 world"


def test_only_the_owner_may_read_the_database(tmp_path: Path) -> None:
    with run(environment(tmp_path)) as service:
        service.client.create()
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert set(modes) >= {"chat.db", "chat.db-wal", "chat.db-shm", "chat.db.lock"}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_what_is_running_and_ends_within_five_seconds(
    tmp_path: Path, upstream: Upstream, number: int
) -> None:
    with run(environment(tmp_path, upstream)) as service, ExitStack() as open_streams:
        streams = []
        for _ in range(5):
            chat = service.client.create(model="stall")
            events = open_streams.enter_context(stream(service.client, chat))
            while events.text != "two words":
                events.next()
            streams.append(events)
        started = time.monotonic()
        service.stop(number)
        assert time.monotonic() - started < 5
        for events in streams:
            *_, final, done = events.rest()
            assert (final["finish_reason"], done) == ("error", "[DONE]")
    with sqlite3.connect(tmp_path / "chat.db") as file:
        rows = file.execute("SELECT status, content FROM message WHERE role = 'assistant'")
        assert set(rows) == {("interrupted", "two words")}
    assert "Traceback" not in "".join(service.log)


def test_a_reader_that_does_not_read_delays_the_end_no_longer_than_that(
    tmp_path: Path, upstream: Upstream
) -> None:
    with run(environment(tmp_path, upstream)) as service:
        chat = service.client.create(model="big:1000000:20")
        with stream(service.client, chat) as events:
            events.next()
            started = time.monotonic()
            service.stop(signal.SIGTERM)
            assert time.monotonic() - started < 5


def test_a_second_service_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with run(environment(tmp_path)):
        sentence = refused(environment(tmp_path))
    assert sentence == f"{tmp_path / 'chat.db'} is in use by another running service\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "many"),
        ("PORT", "70000"),
        ("DEFAULT_PROVIDER", "azure"),
        ("POE_BASE_URL", "not a url"),
        ("UPSTREAM_TIMEOUT", "0"),
        ("MAX_BODY_MB", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_a_sentence(
    tmp_path: Path, name: str, value: str
) -> None:
    sentence = refused(environment(tmp_path) | {name: value})
    assert sentence.startswith(f"{name}: ")
    assert len(sentence.splitlines()) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "chat.lan"])
def test_an_open_door_without_a_token_is_refused(tmp_path: Path, host: str) -> None:
    sentence = refused(environment(tmp_path, HOST=host))
    assert sentence.startswith("HOST: ")
    assert "ACCESS_TOKEN" in sentence
    assert "ALLOW_OPEN=true" in sentence
    assert len(sentence.splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"HOST": "0.0.0.0", "ACCESS_TOKEN": "let-me-in"},
        {"HOST": "0.0.0.0", "ALLOW_OPEN": "true"},
        {"HOST": "localhost"},
    ],
)
def test_a_door_with_a_lock_or_on_purpose_may_be_open(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    with run(environment(tmp_path) | changes) as service:
        assert service.client.get("/health", headers={"Host": "localhost"}).status_code == 200


def test_a_blank_setting_counts_as_unset(tmp_path: Path) -> None:
    with run(environment(tmp_path, OPENAI_API_KEY="", ACCESS_TOKEN="", HOST="")) as service:
        assert service.client.get("/health").json()["providers"]["openai"] is False


def test_no_word_of_a_chat_and_no_key_is_in_the_log(tmp_path: Path, upstream: Upstream) -> None:
    values = environment(tmp_path, upstream, LOG_LEVEL="debug", OPENAI_API_KEY="sk-canary-key")
    with run(values) as service:
        for model in ("hello", "refuse:401", "cut:in-text", "cut:before-headers"):
            chat = service.client.create(model=model, system_prompt="canary-prompt")
            service.client.say(chat, "canary-question", stream=True)
        with stream(service.client, service.client.create(model="stall"), "canary") as events:
            events.next()
        service.stop(signal.SIGTERM)
    log = "".join(service.log)
    assert "canary" not in log
    assert "你好" not in log
