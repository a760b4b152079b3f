"""The calls of the existing web client, in its order, from its own origin."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Client, make_settings, serve
from tests.upstream import Upstream

ORIGIN = "http://localhost:3000"


@pytest.fixture
def web(tmp_path: Path, upstream: Upstream) -> Iterator[Client]:
    """A page on another local port, with the key it sends when it has none."""
    with serve(make_settings(tmp_path, upstream)) as client:
        client.headers.update({"Origin": ORIGIN, "Authorization": "Bearer sk-test"})
        client.event_hooks = {"response": [allowed]}
        yield client


def allowed(response: Any) -> None:
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN


def read(text: str) -> list[Any]:
    """Events as the page reads them: split on a blank line, only blocks that begin with `data:`."""
    events = []
    for block in text.split("\n\n"):
        if block.startswith("data:"):
            data = block[5:].strip()
            if data == "[DONE]":
                break
            events.append(json.loads(data))
    return events


def preflight(web: Client, method: str, path: str) -> None:
    headers = {
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    web.options(path, headers=headers)


def test_it_opens_on_what_is_there(web: Client) -> None:
    assert web.get("/v1/chat/conversations/grouped").json() == {}
    assert web.get("/v1/projects").json() == []
    names = [category["name"] for category in web.get("/v1/plan/categories").json()]
    assert names == ["需求计划", "开发计划", "测试计划", "整改计划", "知识库"]
    assert web.get("/v1/models").json()["data"][0]["id"] == "echo"


def test_it_makes_a_project_and_talks_in_it(web: Client) -> None:
    preflight(web, "POST", "/v1/projects")
    blanks = {"llm_model": "", "git_work_dir": "", "ai_work_dir": "", "llm_url": ""}
    project = web.post("/v1/projects", json={"name": "船", "dev_environment": "", **blanks}).json()
    assert project["created_time"].endswith("Z")
    body = {"name": "", "model": "hello", "assistance_role": "", "project_id": project["id"]}
    created = web.post("/v1/chat/conversations", json={"system_prompt": "友好", **body}).json()
    chat = created.get("id") or created["conversation_id"]
    preflight(web, "POST", f"/v1/chat/conversations/{chat}/messages")
    message = {"role": "user", "content": "造一艘船", "model": "", "stream": True, "documents": []}
    first, *pieces, last = read(
        web.post(f"/v1/chat/conversations/{chat}/messages", json=message).text
    )
    assert "".join(piece["content"] for piece in pieces) == "你好, world!"
    assert last["finish_reason"] == "stop"
    web.post("/v1/chat/stop-stream", json={"session_id": first["session_id"]})
    history = web.get(f"/v1/chat/conversations/{chat}/messages").json()["messages"]
    assert [m["role"] for m in history] == ["system", "user", "assistant"]
    path = f"/v1/chat/messages/{first['user_message_id']}"
    web.put(path, json={"content": "造两艘船", "created_at": "2026-01-01T10:00:00"})
    web.put(f"/v1/chat/conversations/{chat}", json={**body, "name": "造船", "status": 0})
    (listed,) = web.get("/v1/chat/conversations/grouped").json()["船"]
    assert (listed["name"], listed["model"]) == ("造船", "hello")
    web.post("/v1/chat/messages/delete", json={"message_ids": [first["assistant_message_id"]]})
    web.delete(f"/v1/chat/conversations/{chat}")


def test_it_keeps_documents_and_refers_to_them(web: Client) -> None:
    document = {
        "project_id": 1,
        "category_id": 1,
        "filename": "需求.md",
        "content": "船要浮起来",
        "version": 1,
        "source": "user",
        "related_log_id": "",
    }
    first = web.post("/v1/plan/documents", json=document).json()
    second = web.post("/v1/plan/documents", json={**document, "content": "船要快"}).json()
    assert (first["version"], second["version"]) == (1, 2)
    params: dict[str, Any] = {"project_id": 1, "category_id": 1, "filename": "需求.md"}
    history = web.get("/v1/plan/documents/history", params=params).json()
    assert [version["version"] for version in history] == [2, 1]
    everything: dict[str, Any] = {
        "project_id": 1,
        "category_id": "",
        "query": "",
        "sort_by": "",
        "order": "",
    }
    page = web.get("/v1/plan/documents/latest", params={**everything, "page": 1, "page_size": ""})
    assert page.json()["items"][0]["created_time"] == second["created_time"]
    web.get(f"/v1/plan/documents/{second['id']}")
    web.put(f"/v1/plan/documents/{second['id']}", json={"content": "船要又快又稳"})
    web.post("/v1/projects/1/document-references", json={"document_ids": [first["id"]]})
    chat = web.post("/v1/chat/conversations", json={"project_id": 1}).json()["conversation_id"]
    path = f"/v1/chat/conversations/{chat}"
    web.post(f"{path}/document-references", json={"document_ids": [second["id"]]})
    found = web.get(f"{path}/referenced-documents").json()
    assert len(found["project_references"]) == len(found["conversation_references"]) == 1


def test_it_asks_for_summaries_by_chat_completion(web: Client) -> None:
    preflight(web, "POST", "/v1/chat/completions")
    body = {"model": "hello", "messages": [{"role": "user", "content": "总结"}], "stream": True}
    chunks = read(web.post("/v1/chat/completions", json=body).text)
    texts = (c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert "".join(texts) == "你好, world!"
