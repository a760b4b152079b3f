"""The official client for Node against the service; `npm ci` in tests/node installs it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Client
from tests.upstream import Call, Upstream

HERE = Path(__file__).parent / "node"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(
    NODE is None or not (HERE / "node_modules").is_dir(),
    reason="needs node, and `npm ci` in tests/node",
)


@pytest.fixture
def results(client: Client) -> dict[str, Any]:
    """What tests/node/sdk.mjs got out of the service."""
    assert NODE is not None
    command = [NODE, str(HERE / "sdk.mjs"), f"{client.base_url}/v1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_client_for_node_is_served(
    results: dict[str, Any], client: Client, upstream: Upstream
) -> None:
    assert results["whole"] == "1 messages"
    assert results["streamed"] == results["retried"] == "你好, world!"
    assert results["tool"] == {"arguments": '{"zone": "UTC"}', "answer": "3 messages"}
    assert results["models"] == [m["id"] for m in client.get("/v1/models").json()["data"]]
    assert results["found"] == "openai/hello"
    assert results["embedding"] == [0.5, -1, 2]
    assert results["response"] == "hello"

    refused = {"kind": "RateLimitError", "status": 429, "message": "429 No: Bearer [key]"}
    assert results["refused"] == refused
    assert results["unknown"]["kind"] == "NotFoundError"
    assert results["cutOff"]["kind"] == "APIError"
    assert "The upstream broke off" in results["cutOff"]["message"]
    assert results["impatient"]["kind"] == "APIConnectionTimeoutError"

    assert len(set(results["kept"])) == 1
    chats = {chat["id"]: chat for chat in client.get("/v1/chat/conversations").json()}
    assert len(chats) == 2
    told = [message["content"] for message in client.history(results["kept"][0])]
    assert told == ["one", "1 messages", "two", "3 messages", "three", "5 messages"]

    assert len(calls(upstream, "flaky:503:1")) == 2
    for model in ("silent", "words:1000:0.01"):
        [call] = calls(upstream, model)
        assert call.hung_up.wait(2)


def calls(upstream: Upstream, model: str) -> list[Call]:
    return [call for call in upstream.calls if call.body and call.body["model"] == model]
