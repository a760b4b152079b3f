"""A canary of a key goes through every success and every failure; it must be found nowhere."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Client, make_settings, serve
from tests.process import MAIN, Process, environment, run
from tests.upstream import Upstream

OWN = "sk-own-canary-8f3b2c1d"
POE = "poe-canary-8f3b2c1d"
TOKEN = "token-canary-8f3b2c1d"
CALLERS = "sk-callers-canary-8f3b2c1d"
CANARIES = (OWN, POE, TOKEN, CALLERS)
MODELS = (
    *("hello", "whole", "official", "refuse:401", "refuse:402", "refuse:500", "mumble:401"),
    *("redirect", "html", "cut:before-headers", "cut:in-text", "no-done", "bad-utf8", "poe/hello"),
    *("quote:text", "quote:cut", "quote:error", "quote:whole", "poe/quote:text", "poe/refuse:403"),
)
WRONG = (
    "Bearer",
    f"Basic {OWN}",
    f"bearer  {CALLERS} {OWN}",
    f"Bearer {CALLERS}, Bearer {OWN}",
    f"Bearer {'k' * 5000}",
)


class Watch:
    """Everything that a service has answered, logged and stored."""

    def __init__(self, service: Process, folder: Path) -> None:
        self.service = service
        self.client = service.client
        self._folder = folder
        self._answers: list[str] = []
        self.client.event_hooks = {"response": [self._keep]}

    def _keep(self, answer: httpx2.Response) -> None:
        body = answer.read()
        self._answers.append(f"{answer.headers} {body.decode('latin-1')}")

    def seen(self) -> str:
        """To be called when the service has ended."""
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        stored = [path.read_bytes().decode("latin-1") for path in files]
        return "\n".join([*self._answers, *self.service.log, *stored])


@contextmanager
def watched(folder: Path, upstream: Upstream, **changes: str) -> Iterator[Watch]:
    values = environment(
        folder, upstream, LOG_LEVEL="debug", BACKUP_DIR=str(folder / "backups"), **changes
    )
    with run(values, dev=False) as service:
        yield Watch(service, folder)


def check_nowhere(seen: str) -> None:
    assert "[key]" in seen  # somebody did quote it
    for canary in CANARIES:
        assert canary not in seen


def ask_everything(client: Client) -> None:
    """Every way to ask, of every model."""
    for model in MODELS:
        for streamed in (False, True):
            chat = client.create()
            client.say(chat, "hi", model=model, stream=streamed)
            reply = client.history(chat)[-1]
            client.get(f"/v1/chat/messages/{reply['id']}/stream")
            client.post(f"/v1/chat/messages/{reply['id']}/regenerate", json={"model": model})
            messages = [{"role": "user", "content": "hi"}]
            call: dict[str, Any] = {"model": model, "messages": messages, "stream": streamed}
            client.post("/v1/chat/completions", json=call)
            client.post("/v1/chat/completions", json={**call, "store": True})
            client.post("/v1/responses", json=call)
    source = client.create(model="hello")
    client.say(source, "hi")
    body = {"conversation_id": source, "category_id": 1, "model": "quote:text"}
    client.post("/v1/plan/documents/generate", json=body)
    client.get("/v1/models")


def ask_wrongly(client: Client) -> None:
    """A key where none belongs."""
    client.post("/v1/projects", json={"name": "x", "api_key": OWN})
    client.post("/v1/projects", json={"name": {"key": OWN}})
    client.post("/v1/projects", content=f'{{"name": "{OWN}')
    client.post("/v1/chat/conversations", json={"project_id": OWN})
    client.say("a-chat", "hi", options={"api_key": OWN})
    client.get("/v1/projects/", params={"api_key": OWN})
    client.get("/nowhere", params={"api_key": OWN}, headers={"x-api-key": OWN})
    client.get("/v1/projects", headers={"Origin": f"http://{OWN}.example"})
    client.get("/v1/projects", headers={"Host": f"{OWN}.example"})
    for value in WRONG:
        client.get("/v1/models", headers={"Authorization": value})


def keep_everything(client: Client) -> None:
    for path in ("/v1/export", "/v1/export?format=zip", "/v1/backup", "/openapi.json", "/docs"):
        assert client.get(path).status_code == 200


def break_the_file(folder: Path) -> None:
    """What nobody foresees: somebody else takes a table away."""
    file = sqlite3.connect(folder / "chat.db")
    file.execute("DROP TABLE plan_document")
    file.commit()
    file.close()


def test_the_services_own_keys_are_found_nowhere(tmp_path: Path, upstream: Upstream) -> None:
    keys = {"OPENAI_API_KEY": OWN, "POE_API_KEY": POE, "ACCESS_TOKEN": TOKEN}
    with watched(tmp_path, upstream, **keys) as watch:
        client = watch.client
        ask_wrongly(client)
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        ask_everything(client)
        ask_wrongly(client)
        keep_everything(client)
        break_the_file(tmp_path)
        assert client.get("/v1/plan/documents/latest").status_code == 500
    assert "Traceback" in "".join(watch.service.log)
    check_nowhere(watch.seen())


def test_the_callers_key_is_found_nowhere(tmp_path: Path, upstream: Upstream) -> None:
    with watched(tmp_path, upstream, OPENAI_API_KEY="") as watch:
        watch.client.headers["Authorization"] = f"Bearer {CALLERS}"
        ask_everything(watch.client)
        ask_wrongly(watch.client)
        keep_everything(watch.client)
        watch.service.kill()
    assert f"Bearer {CALLERS}" in {call.headers.get("authorization") for call in upstream.calls}
    check_nowhere(watch.seen())


def test_a_key_that_is_no_setting_is_not_repeated_when_the_start_is_refused(tmp_path: Path) -> None:
    values = environment(tmp_path, OPENAI_API_KEY=f"{OWN} with blanks", ACCESS_TOKEN=f"{TOKEN}é")
    done = subprocess.run([sys.executable, str(MAIN)], env=values, capture_output=True, timeout=20)
    assert done.returncode == 1
    assert b"canary" not in done.stderr + done.stdout


SQL = "' OR '1'='1' --"


NO_KEYS = (
    *(b"", b"Bearer", b"Bearer " + b"k" * 65_536, b"Bearer a b", b"Bearer k\tk"),
    *(b"Bearer \xff\xfe", "Bearer é".encode(), f"Bearer {SQL}".encode()),
)


@pytest.mark.parametrize("changes", [{"access_token": TOKEN}, {"openai_api_key": None}], ids=str)
def test_a_bearer_that_is_no_key_is_a_401_and_never_another_key(
    tmp_path: Path, upstream: Upstream, changes: dict[str, Any]
) -> None:
    call = {"model": "hello", "messages": [{"role": "user", "content": "hi"}]}
    with serve(make_settings(tmp_path, upstream, **changes)) as client:
        for value in NO_KEYS:
            headers = {b"Authorization": value, b"X-Api-Key": TOKEN.encode()}
            answer = client.post("/v1/chat/completions", json=call, headers=headers)
            assert answer.status_code == 401, (value[:40], answer.text)
            assert set(answer.json()) == {"detail", "error"}
    assert upstream.calls == []
