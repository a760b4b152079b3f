"""Projects: made and changed, born by reference, and deleted without losing a conversation."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.conftest import Client, make_settings, serve
from tests.refusals import (
    LONG,
    NO_OBJECT,
    ODD,
    SECRET,
    UNPARSABLE,
    UNSTORABLE,
    UTC,
    check_refused,
    send,
)

PROJECTS = "/v1/projects"
DOCUMENTS = "/v1/plan/documents"
OPTIONAL = {
    "dev_environment": "Debian 12, Python 3.11",
    "llm_model": "poe/gpt-5",
    "grpc_server_address": "127.0.0.1:50051",
    "llm_url": "http://127.0.0.1:11434",
    "git_work_dir": "/srv/git",
    "ai_work_dir": "/srv/ai",
}
WITH_A_BODY = [("POST", PROJECTS), ("PUT", f"{PROJECTS}/7")]


def create(client: Client, **body: Any) -> dict[str, Any]:
    answer = client.post(PROJECTS, json=body)
    assert answer.status_code == 200, answer.text
    project: dict[str, Any] = answer.json()
    return project


def get(client: Client, project_id: int) -> dict[str, Any]:
    project: dict[str, Any] = client.get(f"{PROJECTS}/{project_id}").json()
    return project


def keep_document(client: Client, project_id: int) -> int:
    """Store a document in a project; its id."""
    body = {"project_id": project_id, "category_id": 1, "filename": "plan.md", "content": "text"}
    answer = client.post(DOCUMENTS, json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])


def check_not_found(answer: httpx2.Response) -> None:
    assert answer.status_code == 404, f"{answer.request.url} {answer.text}"
    assert answer.json() == {"detail": "Project not found"}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One service, with a project 7, for all that is refused: it is as before in the end."""
    with serve(make_settings(tmp_path_factory.mktemp("refused"))) as client:
        client.create(project_id=7)
        before = client.get(PROJECTS).json()
        yield client
        assert client.get(PROJECTS).json() == before


# Created and changed


def test_a_project_keeps_every_field_it_is_given(client: Client) -> None:
    project = create(client, name="Alpha", **OPTIONAL)
    assert project.items() >= {"name": "Alpha", **OPTIONAL}.items()
    assert set(project) == {"id", "name", "created_time", "updated_time", *OPTIONAL}
    assert UTC.fullmatch(project["created_time"])
    assert UTC.fullmatch(project["updated_time"])
    assert get(client, project["id"]) == project
    assert client.get(PROJECTS).json() == [project]


def test_a_project_needs_nothing_but_a_name(client: Client) -> None:
    assert client.get(PROJECTS).json() == []
    project = create(client, name="Alpha")
    assert project.items() >= dict.fromkeys(OPTIONAL).items()
    check_refused(client.post(PROJECTS, json={}), "name")


def test_an_update_changes_only_what_it_names(client: Client) -> None:
    before = create(client, name="Alpha", **OPTIONAL)
    path = f"{PROJECTS}/{before['id']}"
    after = client.put(path, json={"name": "Beta", "llm_url": "", "ai_work_dir": None}).json()
    changed = {"name": "Beta", "llm_url": "", "ai_work_dir": None}
    assert after == {**before, **changed, "updated_time": after["updated_time"]}
    assert after["updated_time"] > before["updated_time"]
    assert get(client, before["id"]) == after


def test_text_comes_back_exactly_as_it_was_sent(client: Client) -> None:
    texts = {**dict.fromkeys(OPTIONAL, LONG), "name": ODD.ljust(255, "😀"), "llm_model": ODD}
    project = create(client, **texts)
    assert project.items() >= texts.items()
    assert get(client, project["id"]).items() >= texts.items()
    assert client.get(PROJECTS).json()[0].items() >= texts.items()


# Names


def test_a_name_that_is_taken_is_refused(client: Client) -> None:
    create(client, name="Alpha")
    path = f"{PROJECTS}/{create(client, name='Beta')['id']}"
    for answer in (
        client.post(PROJECTS, json={"name": "Alpha"}),
        client.put(path, json={"name": "Alpha"}),
    ):
        assert answer.status_code == 409
        assert isinstance(answer.json()["detail"], str)
    assert client.put(path, json={"name": "Beta"}).status_code == 200
    assert [project["name"] for project in client.get(PROJECTS).json()] == ["Alpha", "Beta"]


def test_of_many_who_want_one_name_at_once_one_gets_it(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(client.post, PROJECTS, json={"name": "Alpha"}) for _ in range(8)]
    statuses = sorted(attempt.result().status_code for attempt in tries)
    assert statuses == [200] + [409] * 7


def test_blank_counts_as_absent(client: Client) -> None:
    check_refused(client.post(PROJECTS, json={"name": ""}), "name")
    assert create(client, name="Alpha", llm_model="")["llm_model"] is None
    project = create(client, name="Beta", llm_model="echo")
    answer = client.put(f"{PROJECTS}/{project['id']}", json={"name": "", "llm_model": ""})
    assert (answer.json()["name"], answer.json()["llm_model"]) == ("Beta", "echo")


# Born by reference


def test_any_number_but_0_names_a_project_which_is_born_if_there_is_none(client: Client) -> None:
    client.create(project_id=0)
    keep_document(client, 0)
    assert client.get(PROJECTS).json() == []
    chat = client.create(project_id=9)
    client.put(f"/v1/chat/conversations/{chat}", json={"project_id": 7})
    keep_document(client, 8)
    born = [(project["id"], project["name"]) for project in client.get(PROJECTS).json()]
    assert born == [(7, "Project 7"), (8, "Project 8"), (9, "Project 9")]


def test_a_project_is_born_beside_another_that_has_its_name(client: Client) -> None:
    other = create(client, name="Project 7")
    chat = client.create(project_id=7)
    conversation = client.get(f"/v1/chat/conversations/{chat}").json()
    assert conversation["project_id"] == 7
    assert conversation["project_name"] == get(client, 7)["name"]
    assert get(client, 7)["name"] != "Project 7"
    assert get(client, other["id"]) == other


def test_a_project_that_was_renamed_is_not_born_again(client: Client) -> None:
    client.create(project_id=7)
    client.put(f"{PROJECTS}/7", json={"name": "Alpha"})
    client.create(project_id=7)
    assert [project["name"] for project in client.get(PROJECTS).json()] == ["Alpha"]


def test_projects_can_be_created_after_the_largest_number_was_named(client: Client) -> None:
    client.create(project_id=2**63 - 1)
    assert get(client, 2**63 - 1)["name"] == "Project 9223372036854775807"
    assert create(client, name="Alpha")["name"] == "Alpha"


# Deleted


def test_deleting_a_project_moves_its_conversations_to_the_rest(client: Client) -> None:
    chat, other = client.create(project_id=7, name="kept"), client.create(project_id=8)
    answer = client.delete(f"{PROJECTS}/7")
    assert answer.status_code == 200
    assert answer.json() == {"message": "Project deleted successfully"}
    check_not_found(client.get(f"{PROJECTS}/7"))
    moved = client.get(f"/v1/chat/conversations/{chat}").json()
    assert (moved["project_id"], moved["project_name"], moved["name"]) == (0, "其它", "kept")
    groups = client.get("/v1/chat/conversations/grouped").json()
    members = {name: [one["id"] for one in group] for name, group in groups.items()}
    assert members == {"Project 8": [other], "其它": [chat]}


def test_a_project_with_documents_is_deleted_only_by_force(client: Client) -> None:
    document, other = keep_document(client, 7), keep_document(client, 8)
    chat = client.create(project_id=7)
    for query in ("", "?force=false"):
        refusal = client.delete(f"{PROJECTS}/7{query}")
        assert refusal.status_code == 409
        assert isinstance(refusal.json()["detail"], str)
    check_refused(client.delete(f"{PROJECTS}/7?force={SECRET}"), "force")
    assert client.get(f"{DOCUMENTS}/{document}").status_code == 200
    assert client.delete(f"{PROJECTS}/7?force=true").status_code == 200
    assert client.get(f"{DOCUMENTS}/{document}").status_code == 404
    assert client.get(f"{DOCUMENTS}/{other}").status_code == 200
    assert client.get(f"/v1/chat/conversations/{chat}").json()["project_id"] == 0


# Refused


@pytest.mark.parametrize("project_id", [8, 0, "abc", -1, 2**63 - 1, 2**63])
def test_an_id_that_names_no_project_is_not_found(standing: Client, project_id: object) -> None:
    path = f"{PROJECTS}/{project_id}"
    check_not_found(standing.get(path))
    check_not_found(standing.put(path, json={"name": "Beta"}))
    check_not_found(standing.delete(path))
    check_not_found(standing.delete(f"{path}?force=true"))


@pytest.mark.parametrize("field", ["name", *OPTIONAL])
def test_a_value_of_the_wrong_type_is_refused(standing: Client, field: str) -> None:
    for value in (1, True, [SECRET], {"text": SECRET}):
        for method, path in WITH_A_BODY:
            body = {"name": "Beta", field: value}
            check_refused(standing.request(method, path, json=body), field)


@pytest.mark.parametrize("name", [None, SECRET * 12, "其它"])
def test_a_name_that_none_may_have_is_refused(standing: Client, name: object) -> None:
    for method, path in WITH_A_BODY:
        check_refused(standing.request(method, path, json={"name": name}), "name")


@pytest.mark.parametrize("field", ["id", "created_time", "description"])
def test_an_unknown_field_is_refused_not_dropped(standing: Client, field: str) -> None:
    for method, path in WITH_A_BODY:
        body = {"name": "Beta", field: SECRET}
        check_refused(standing.request(method, path, json=body), field)


@pytest.mark.parametrize("body", NO_OBJECT)
def test_a_body_that_is_no_json_object_is_refused(standing: Client, body: str) -> None:
    for method, path in WITH_A_BODY:
        check_refused(send(standing, method, path, body))


@pytest.mark.parametrize("value", UNSTORABLE)
def test_a_value_that_could_not_come_back_as_sent_is_refused(standing: Client, value: str) -> None:
    for method, path in WITH_A_BODY:
        check_refused(send(standing, method, path, f'{{"name": {value}}}'))


@pytest.mark.parametrize("value", UNPARSABLE)
def test_a_body_that_no_parser_survives_is_refused(standing: Client, value: bytes) -> None:
    for method, path in WITH_A_BODY:
        check_refused(send(standing, method, path, b'{"name": %b}' % value))
