"""Documents given to projects and conversations to read."""

from typing import Any

import httpx2
import pytest

from tests.conftest import Client
from tests.upstream import Upstream


def document(client: Client, filename: str, project_id: int = 1, content: str = "facts") -> int:
    body = {"project_id": project_id, "category_id": 5, "filename": filename, "content": content}
    return int(client.post("/v1/plan/documents", json=body).json()["id"])


def of_project(project_id: int = 1) -> str:
    return f"/v1/projects/{project_id}/document-references"


def of_chat(chat: str) -> str:
    return f"/v1/chat/conversations/{chat}/document-references"


def refer(client: Client, path: str, *ids: int) -> httpx2.Response:
    return client.post(path, json={"document_ids": ids})


def referenced(answer: httpx2.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [reference["document_id"] for reference in answer.json()]


def test_a_set_is_replaced_and_cleared(client: Client) -> None:
    a, b, c = (document(client, name) for name in "abc")
    first = refer(client, of_project(), a, b, a).json()
    assert (first["added_count"], first["removed_count"]) == (2, 0)
    second = refer(client, of_project(), b, c).json()
    assert (second["added_count"], second["removed_count"]) == (1, 1)
    assert [found["document_id"] for found in second["current_references"]] == [b, c]
    assert referenced(client.get(of_project())) == [b, c]
    assert client.delete(of_project()).json()["removed_count"] == 2
    assert referenced(client.get(of_project())) == []


def test_a_reference_shows_the_version_that_was_referenced(client: Client) -> None:
    old = document(client, "a.md", content="old")
    chat = client.create(project_id=1)
    refer(client, of_chat(chat), old)
    document(client, "a.md", content="new")
    found = client.get(f"/v1/chat/conversations/{chat}/referenced-documents").json()
    assert found["conversation_id"] == chat
    assert found["project_references"] == []
    (reference,) = found["conversation_references"]
    created = client.get(f"/v1/plan/documents/{old}").json()["created_time"]
    assert reference == {
        "id": reference["id"],
        "project_id": 1,
        "conversation_id": chat,
        "document_id": old,
        "reference_type": "conversation",
        "document_filename": "a.md",
        "document_content": "old",
        "document_version": 1,
        "document_created_time": created,
    }


def test_the_model_is_given_the_projects_documents_then_the_conversations_then_the_turns(
    client: Client, upstream: Upstream
) -> None:
    a, b, c = (document(client, name) for name in ("a", "b", "c"))
    chat = client.create(project_id=1, model="hello")
    refer(client, of_project(), a)
    refer(client, of_chat(chat), b)
    client.say(chat, "hi", documents=[c, a])
    system = upstream.calls[-1].body["messages"][0]["content"]
    names = [line.split()[1] for line in system.splitlines() if line.endswith("BEGIN -----")]
    assert names == ["a", "b", "c"]
    shown = client.get(f"/v1/chat/conversations/{chat}/context").json()["messages"][0]["content"]
    assert shown.count("BEGIN -----") == 2


def test_a_conversation_refers_only_to_what_its_project_has_and_does_not_refer_to(
    client: Client,
) -> None:
    a, b = document(client, "a"), document(client, "b")
    foreign = document(client, "c", project_id=2)
    chat = client.create(project_id=1)
    refer(client, of_project(), a, b)
    twice = refer(client, of_chat(chat), b, a)
    assert twice.status_code == 400
    assert twice.json() == {"detail": f"Documents already referenced at project level: [{b}, {a}]"}
    assert refer(client, of_chat(chat), foreign).status_code == 400
    assert referenced(client.get(of_chat(chat))) == []


def test_a_conversation_that_moves_leaves_its_references_behind(client: Client) -> None:
    a = document(client, "a")
    chat = client.create(project_id=1)
    refer(client, of_chat(chat), a)
    client.put(f"/v1/chat/conversations/{chat}", json={"project_id": 1, "name": "same project"})
    assert referenced(client.get(of_chat(chat))) == [a]
    client.put(f"/v1/chat/conversations/{chat}", json={"project_id": 2})
    assert referenced(client.get(of_chat(chat))) == []


def test_deleting_a_document_removes_its_references(client: Client) -> None:
    a, b = document(client, "a"), document(client, "b")
    chat = client.create(project_id=1)
    refer(client, of_project(), a)
    refer(client, of_chat(chat), b)
    for document_id in (a, b):
        client.delete(f"/v1/plan/documents/{document_id}")
    assert referenced(client.get(of_project())) == referenced(client.get(of_chat(chat))) == []


@pytest.mark.parametrize("body", [{}, {"document_ids": [0]}, {"document_ids": "1"}, []])
def test_a_set_that_is_none_is_refused(client: Client, body: Any) -> None:
    document(client, "a")
    assert client.post(of_project(), json=body).status_code == 422


def test_what_is_not_there_is_not_found(client: Client) -> None:
    document(client, "a")
    chat = client.create(project_id=1)
    for path in (of_project(), of_chat(chat)):
        unknown = refer(client, path, 99)
        assert (unknown.status_code, unknown.json()) == (404, {"detail": "Document not found"})
    for method in ("GET", "POST", "DELETE"):
        body: Any = {"document_ids": []} if method == "POST" else None
        project = client.request(method, of_project(99), json=body)
        assert (project.status_code, project.json()) == (404, {"detail": "Project not found"})
        nowhere = client.request(method, of_chat("nowhere"), json=body)
        assert nowhere.json() == {"detail": "Conversation not found"}
