"""Plan categories: five are built in and stay; the others come and go, never documents unasked."""

import re
from collections.abc import Iterator
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
    check_conflict,
    check_refused,
    send,
)

CATEGORIES = "/v1/plan/categories"
DOCUMENTS = "/v1/plan/documents"
BUILT_IN = [
    (1, "需求计划", "PlanGetRequest"),
    (2, "开发计划", "PlanExecuteRequest"),
    (3, "测试计划", "PlanExecuteRequest"),
    (4, "整改计划", "PlanExecuteRequest"),
    (5, "知识库", "PlanGetRequest"),
]
EVERY_FIELD = {
    "name": "会议纪要",
    "prompt_template": "整理: {doc}\n环境: {env}",
    "message_method": "PlanExecuteRequest",
    "auto_save_category_id": 5,
    "summary_model": "poe/gpt-5",
}
WITH_A_BODY = [("POST", CATEGORIES), ("PUT", f"{CATEGORIES}/1")]


def create(client: Client, **body: Any) -> dict[str, Any]:
    answer = client.post(CATEGORIES, json=body)
    assert answer.status_code == 200, answer.text
    category: dict[str, Any] = answer.json()
    return category


def every(client: Client) -> list[dict[str, Any]]:
    categories: list[dict[str, Any]] = client.get(CATEGORIES).json()
    return categories


def keep_document(client: Client, category_id: int) -> int:
    """Store a document in a category; its id."""
    body = {"project_id": 0, "category_id": category_id, "filename": "a.md", "content": "text"}
    answer = client.post(DOCUMENTS, json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])


def check_not_found(answer: httpx2.Response) -> None:
    assert answer.status_code == 404, f"{answer.request.url} {answer.text}"
    assert answer.json() == {"detail": "Category not found"}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One service for all that is refused: it is as before in the end."""
    with serve(make_settings(tmp_path_factory.mktemp("refused"))) as client:
        before = every(client)
        yield client
        assert every(client) == before


# Built in


def test_a_fresh_database_has_the_built_in_categories(client: Client) -> None:
    categories = every(client)
    told = [(one["id"], one["name"], one["message_method"]) for one in categories]
    assert told == BUILT_IN
    assert all(one["is_builtin"] is True for one in categories)
    *plans, knowledge = [one["prompt_template"] for one in categories]
    assert knowledge == "{doc}"
    for template in plans:
        assert template.count("{doc}") == template.count("{env}") == 1
        assert re.search("[\u4e00-\u9fff]", template)


def test_a_built_in_category_is_edited_but_never_deleted(client: Client) -> None:
    path = f"{CATEGORIES}/2"
    answer = client.put(path, json={"name": "Plan", "prompt_template": "{doc}"})
    assert answer.status_code == 200
    check_conflict(client.delete(path))
    check_conflict(client.delete(f"{path}?force=true"))
    edited = client.get(path).json()
    assert edited == answer.json()
    assert (edited["name"], edited["prompt_template"]) == ("Plan", "{doc}")
    assert (edited["message_method"], edited["is_builtin"]) == ("PlanExecuteRequest", True)
    assert [one["id"] for one in every(client)] == [1, 2, 3, 4, 5]


# Created and changed


def test_a_category_keeps_every_field_it_is_given(client: Client) -> None:
    category = create(client, **EVERY_FIELD)
    assert category.items() >= EVERY_FIELD.items()
    assert set(category) == {"id", "is_builtin", "created_time", "updated_time", *EVERY_FIELD}
    assert category["is_builtin"] is False
    assert UTC.fullmatch(category["created_time"])
    assert UTC.fullmatch(category["updated_time"])
    assert client.get(f"{CATEGORIES}/{category['id']}").json() == category
    assert every(client)[5:] == [category]


def test_a_category_needs_nothing_but_a_name(client: Client) -> None:
    category = create(client, name="会议纪要")
    assert category["auto_save_category_id"] is None
    assert category["summary_model"] is None
    check_refused(client.post(CATEGORIES, json={}), "name")
    check_refused(client.post(CATEGORIES, json={"name": ""}), "name")


def test_an_update_changes_only_what_it_names(client: Client) -> None:
    before = create(client, **EVERY_FIELD)
    changed = {"prompt_template": "", "auto_save_category_id": None, "summary_model": None}
    answer = client.put(f"{CATEGORIES}/{before['id']}", json={**changed, "name": ""})
    assert answer.status_code == 200
    after = answer.json()
    assert after == {**before, **changed, "updated_time": after["updated_time"]}
    assert after["updated_time"] > before["updated_time"]
    assert every(client)[5:] == [after]


def test_text_comes_back_exactly_as_it_was_sent(client: Client) -> None:
    texts = {"name": ODD, "prompt_template": LONG, "message_method": ODD, "summary_model": ODD}
    category = create(client, **texts)
    assert category.items() >= texts.items()
    assert client.get(f"{CATEGORIES}/{category['id']}").json() == category
    assert every(client)[5:] == [category]


def test_a_name_that_is_taken_is_refused(client: Client) -> None:
    path = f"{CATEGORIES}/{create(client, name='会议纪要')['id']}"
    for name in ("知识库", "会议纪要"):
        check_conflict(client.post(CATEGORIES, json={"name": name}))
    check_conflict(client.put(path, json={"name": "知识库"}))
    assert client.put(path, json={"name": "会议纪要"}).status_code == 200
    assert [one["name"] for one in every(client)[4:]] == ["知识库", "会议纪要"]


def test_replies_are_saved_to_another_category_that_exists(client: Client) -> None:
    own = create(client, name="会议纪要", auto_save_category_id=1)
    path = f"{CATEGORIES}/{own['id']}"
    check_conflict(client.put(path, json={"auto_save_category_id": own["id"]}))
    check_not_found(client.put(path, json={"auto_save_category_id": 99}))
    check_not_found(client.post(CATEGORIES, json={"name": "New", "auto_save_category_id": 99}))
    assert every(client)[5:] == [own]


# Deleted


def test_a_deleted_category_is_gone_and_nothing_is_saved_to_it(client: Client) -> None:
    gone = create(client, name="会议纪要")["id"]
    client.put(f"{CATEGORIES}/1", json={"auto_save_category_id": gone})
    answer = client.delete(f"{CATEGORIES}/{gone}")
    assert answer.status_code == 200
    assert isinstance(answer.json()["message"], str)
    assert [one["id"] for one in every(client)] == [1, 2, 3, 4, 5]
    assert client.get(f"{CATEGORIES}/1").json()["auto_save_category_id"] is None


def test_a_category_in_use_is_deleted_only_by_force(client: Client) -> None:
    path = f"{CATEGORIES}/{create(client, name='会议纪要')['id']}"
    document, other = keep_document(client, 6), keep_document(client, 1)
    check_conflict(client.delete(path))
    check_conflict(client.delete(f"{path}?force=false"))
    check_refused(client.delete(f"{path}?force={SECRET}"), "force")
    assert client.get(f"{DOCUMENTS}/{document}").status_code == 200
    assert client.delete(f"{path}?force=true").status_code == 200
    check_not_found(client.get(path))
    assert client.get(f"{DOCUMENTS}/{document}").status_code == 404
    assert client.get(f"{DOCUMENTS}/{other}").status_code == 200


# Refused


@pytest.mark.parametrize("category_id", [6, 0, "abc", -1, 2**63 - 1, 2**63])
def test_an_id_that_names_no_category_is_not_found(standing: Client, category_id: object) -> None:
    path = f"{CATEGORIES}/{category_id}"
    check_not_found(standing.get(path))
    check_not_found(standing.put(path, json={"name": "New"}))
    check_not_found(standing.delete(path))
    check_not_found(standing.delete(f"{path}?force=true"))


@pytest.mark.parametrize(
    "field", ["name", "prompt_template", "message_method", "summary_model", "auto_save_category_id"]
)
def test_a_value_of_the_wrong_type_is_refused(standing: Client, field: str) -> None:
    for value in (1.5, True, [SECRET], {"text": SECRET}):
        for method, path in WITH_A_BODY:
            body = {"name": "New", field: value}
            check_refused(standing.request(method, path, json=body), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", SECRET * 12),
        ("summary_model", SECRET * 12),
        ("prompt_template", None),
        ("auto_save_category_id", 0),
        ("auto_save_category_id", -1),
        ("auto_save_category_id", 2**63),
        ("auto_save_category_id", "1"),
        ("auto_save_category_id", SECRET),
    ],
)
def test_a_value_out_of_bounds_is_refused(standing: Client, field: str, value: object) -> None:
    for method, path in WITH_A_BODY:
        body = {"name": "New", field: value}
        check_refused(standing.request(method, path, json=body), field)


@pytest.mark.parametrize("field", ["id", "is_builtin", "created_time", "description"])
def test_an_unknown_field_is_refused_not_dropped(standing: Client, field: str) -> None:
    for method, path in WITH_A_BODY:
        body = {"name": "New", field: SECRET}
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
