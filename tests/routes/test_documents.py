"""Plan documents: versions are added, compared, moved and copied, and never overwritten."""

import re
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
    check_conflict,
    check_refused,
    send,
)

DOCUMENTS = "/v1/plan/documents"
LATEST = f"{DOCUMENTS}/latest"
PLAN: dict[str, Any] = {"project_id": 7, "category_id": 1, "filename": "plan.md"}
# As existing clients send it: the same version with every document.
DOCUMENT: dict[str, Any] = {**PLAN, "content": "text", "version": 1}
PROVENANCE = {"conversation_id", "message_ids", "template_hash", "model", "usage", "stale"}
FIELDS = {*DOCUMENT, *PROVENANCE, "id", "source", "related_log_id", "created_time", "updated_time"}
NEW = {"category_id": 1, "filename": "plan.md", "content": "text"}
MOVE = {"source_category_id": 1, "target_category_id": 2, "filename": "plan.md", "project_id": 7}
COPY = {"document_id": 1, "target_category_id": 2}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", DOCUMENTS): NEW,
    ("PUT", f"{DOCUMENTS}/1"): {},
    ("POST", f"{DOCUMENTS}/merge"): {"document_ids": [1]},
    ("POST", f"{DOCUMENTS}/migrate/all-history"): MOVE,
    ("POST", f"{DOCUMENTS}/migrate/from-current"): COPY,
}


def post(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"{DOCUMENTS}{path}", json=body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def store(client: Client, content: str = "text", **changes: Any) -> dict[str, Any]:
    return post(client, "", {**DOCUMENT, "content": content, **changes})


def get(client: Client, document_id: int) -> dict[str, Any]:
    answer = client.get(f"{DOCUMENTS}/{document_id}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def versions(client: Client, **changes: Any) -> list[tuple[int, str]]:
    """The history of the plan, or of another document: numbers and contents."""
    answer = client.get(f"{DOCUMENTS}/history", params={**PLAN, **changes})
    assert answer.status_code == 200, answer.text
    return [(document["version"], document["content"]) for document in answer.json()]


def latest(client: Client, **query: Any) -> dict[str, Any]:
    answer = client.get(LATEST, params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def found(client: Client, **query: Any) -> list[str]:
    """The contents of the newest versions that are found."""
    return [document["content"] for document in latest(client, **query)["items"]]


def check_not_found(answer: httpx2.Response, what: str = "Document") -> None:
    assert answer.status_code == 404, f"{answer.request.url} {answer.text}"
    assert answer.json() == {"detail": f"{what} not found"}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One service, with document 1, for all that is refused: it is as before in the end."""
    with serve(make_settings(tmp_path_factory.mktemp("refused"))) as client:
        before = store(client)
        yield client
        assert latest(client)["items"] == [before]
        assert [project["id"] for project in client.get("/v1/projects").json()] == [7]


# Stored


def test_a_document_is_answered_as_it_is_stored(client: Client) -> None:
    given = {**DOCUMENT, "source": "server", "related_log_id": 42}
    document = post(client, "", given)
    assert set(document) == FIELDS
    assert document.items() >= given.items()
    assert UTC.fullmatch(document["created_time"])
    assert UTC.fullmatch(document["updated_time"])
    assert get(client, document["id"]) == document
    assert client.get(f"{DOCUMENTS}/history", params=PLAN).json() == [document]
    assert latest(client)["items"] == [document]


def test_a_document_needs_neither_project_version_source_nor_log(client: Client) -> None:
    document = post(client, "", {"category_id": 1, "filename": "plan.md", "content": ""})
    absent = {"project_id": 0, "version": 1, "source": "user", "related_log_id": None}
    assert document.items() >= absent.items()


def test_text_comes_back_exactly_as_it_was_sent(client: Client) -> None:
    document = store(client, LONG, filename=ODD)
    assert (document["filename"], document["content"]) == (ODD, LONG)
    assert get(client, document["id"]) == document
    assert versions(client, filename=ODD) == [(1, LONG)]
    assert latest(client, query=ODD)["items"] == [document]
    merged = post(client, "/merge", {"document_ids": [document["id"]]})["merged"]
    assert LONG in merged
    copy = {"document_id": document["id"], "target_category_id": 2}
    assert post(client, "/migrate/from-current", copy)["content"] == LONG


# Versions


def test_a_version_that_is_taken_becomes_the_next_and_overwrites_nothing(client: Client) -> None:
    given = [store(client, f"text {number}")["version"] for number in (1, 2, 3)]
    assert given == [1, 2, 3]
    assert versions(client) == [(3, "text 3"), (2, "text 2"), (1, "text 1")]


def test_a_version_that_is_free_is_kept(client: Client) -> None:
    given = [store(client, version=version)["version"] for version in (5, None, 2, 6)]
    assert given == [5, 6, 2, 7]


def test_versions_are_counted_for_each_project_category_and_filename(client: Client) -> None:
    others: list[dict[str, Any]] = [{"project_id": 0}, {"category_id": 2}, {"filename": "Plan.md"}]
    store(client)
    for other in others:
        assert store(client, "other", **other)["version"] == 1
        assert versions(client, **other) == [(1, "other")]
    assert store(client)["version"] == 2


def test_documents_stored_at_once_all_get_versions_of_their_own(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(lambda number: store(client, f"text {number}"), range(16)))
    assert sorted(document["version"] for document in stored) == list(range(1, 17))
    kept = [(document["version"], document["content"]) for document in stored]
    assert versions(client) == sorted(kept, reverse=True)


def test_an_update_stores_the_next_version(client: Client) -> None:
    first, second = store(client, "one", related_log_id=42), store(client, "two")
    body = {"content": "three", "source": "chat"}
    third = client.put(f"{DOCUMENTS}/{first['id']}", json=body).json()
    assert third.items() >= {**PLAN, **body, "version": 3}.items()
    for document in (first, second, third):
        assert get(client, document["id"]) == document


def test_an_update_under_another_name_begins_a_document_of_that_name(client: Client) -> None:
    store(client, "one")
    second = store(client, "two")
    renamed = client.put(f"{DOCUMENTS}/{second['id']}", json={"filename": "new.md"}).json()
    assert (renamed["version"], renamed["content"]) == (1, "two")
    assert versions(client) == [(2, "two"), (1, "one")]
    assert versions(client, filename="new.md") == [(1, "two")]


def test_one_version_is_deleted_and_the_others_stay(client: Client) -> None:
    first, second = store(client, "one"), store(client, "two")
    answer = client.delete(f"{DOCUMENTS}/{second['id']}")
    assert answer.status_code == 200
    assert isinstance(answer.json()["message"], str)
    check_not_found(client.get(f"{DOCUMENTS}/{second['id']}"))
    assert versions(client) == [(1, "one")]
    assert latest(client)["items"] == [first]
    assert versions(client, filename="never.md") == []


# Latest


def test_latest_shows_the_newest_version_of_each_document(client: Client) -> None:
    store(client, "a1")
    store(client, "a2")
    store(client, "b", filename="b.md")
    store(client, "c", category_id=2)
    store(client, "d", project_id=0)
    assert set(found(client)) == {"a2", "b", "c", "d"}
    assert set(found(client, project_id=7)) == {"a2", "b", "c"}
    assert found(client, project_id=0) == ["d"]
    assert found(client, project_id=7, category_id=2) == ["c"]
    assert latest(client, category_id=3)["total"] == 0


def test_a_query_is_text_to_be_found_in_names_and_newest_texts(client: Client) -> None:
    store(client, "an old 字")
    store(client, "100% of_it 😀")
    store(client, "[文] 'quoted'", filename="b_[*].md")
    for query, contents in {
        "字": [],
        "文": ["[文] 'quoted'"],
        "😀": ["100% of_it 😀"],
        "0%": ["100% of_it 😀"],
        "%": ["100% of_it 😀"],
        "f_i": ["100% of_it 😀"],
        "f?i": [],
        "b_[*": ["[文] 'quoted'"],
        "'": ["[文] 'quoted'"],
        "plan.": ["100% of_it 😀"],
    }.items():
        assert found(client, query=query) == contents, query


def test_a_query_may_be_long(client: Client) -> None:
    needle = "x" * 60_000
    store(client, f"long {needle} text")
    assert latest(client, query=needle)["total"] == 1


def test_latest_is_sorted_as_asked(client: Client) -> None:
    for filename, version in (("b", 3), ("c", 1), ("a", 2)):
        store(client, filename, filename=filename, version=version)
    for column, ascending in {
        "filename": "abc",
        "version": "cab",
        "id": "bca",
        "created_time": "bca",
        "updated_time": "bca",
    }.items():
        assert "".join(found(client, sort_by=column, order="asc")) == ascending
        assert "".join(found(client, sort_by=column, order="desc")) == ascending[::-1]


def test_pages_of_latest_hold_every_document_once(client: Client) -> None:
    names = [f"{number}.md" for number in range(7)]
    for filename in names:
        store(client, filename, filename=filename)
    pages = [latest(client, page=page, page_size=3) for page in (1, 2, 3, 4)]
    assert [len(page["items"]) for page in pages] == [3, 3, 1, 0]
    assert all(set(page) == {"total", "page", "page_size", "items"} for page in pages)
    assert [(page["total"], page["page"], page["page_size"]) for page in pages] == [
        (7, number, 3) for number in (1, 2, 3, 4)
    ]
    assert sorted(one["content"] for page in pages for one in page["items"]) == names


def test_empty_parameters_of_latest_count_as_absent(client: Client) -> None:
    store(client)
    absent = latest(client)
    assert latest(client, query="", sort_by="", order="") == absent
    for name in ("project_id", "category_id", "page", "page_size"):
        assert client.get(LATEST, params={name: ""}).json() == absent


# Merged and compared


def test_merged_documents_stand_in_the_order_asked(client: Client) -> None:
    ids = [store(client, f"text {number}")["id"] for number in (1, 2, 3)]
    merged = post(client, "/merge", {"document_ids": [ids[2], ids[0]]})
    assert set(merged) == {"count", "merged"}
    assert merged["count"] == 2
    assert re.findall(r"text \d", merged["merged"]) == ["text 3", "text 1"]


def test_a_diff_leads_from_the_version_before_to_this_one(client: Client) -> None:
    first = store(client, "same\nold\n")
    store(client, "between\n")
    third = store(client, "same\nnew\n")
    path = f"{DOCUMENTS}/{third['id']}/diff"
    assert "-between" in client.get(path).json()["diff"].splitlines()
    against = client.get(path, params={"against": first["id"]}).json()["diff"].splitlines()
    assert [line[:3] for line in against[:3]] == ["---", "+++", "@@ "]
    assert against[3:6] == [" same", "-old", "+new"]
    added = client.get(f"{DOCUMENTS}/{first['id']}/diff").json()["diff"].splitlines()
    assert added[3:5] == ["+same", "+old"]


def test_a_diff_shows_every_difference(client: Client) -> None:
    first = store(client, "one\ntwo\n")
    for content in ("one\r\ntwo\r\n", "one\ntwo", "one\u2028two\n"):
        document = store(client, content)
        path = f"{DOCUMENTS}/{document['id']}/diff"
        answer = client.get(path, params={"against": first["id"]})
        assert answer.json()["diff"], f"nothing between {first['content']!r} and {content!r}"


# Migrated


def test_a_whole_history_moves_behind_what_the_target_has(client: Client) -> None:
    store(client, "there", category_id=2, version=4)
    for number, version in enumerate((1, 2, 9), 1):
        store(client, f"text {number}", version=version)
    store(client, "other", filename="other.md")
    move = {"project_id": 7, "source_category_id": 1, "target_category_id": 2}
    told = post(client, "/migrate/all-history", {**move, "filename": "plan.md"})
    assert isinstance(told.pop("message"), str)
    moved = {"migrated_count": 3, "start_version": 5, "end_version": 7}
    assert told == {**moved, "target_category_id": 2, "filename": "plan.md"}
    assert versions(client) == []
    behind = [(7, "text 3"), (6, "text 2"), (5, "text 1"), (4, "there")]
    assert versions(client, category_id=2) == behind
    assert versions(client, filename="other.md") == [(1, "other")]


def test_the_current_version_is_copied_and_stays(client: Client) -> None:
    original = store(client, "text", source="chat")
    store(client, "there", category_id=2)
    body: dict[str, Any] = {"document_id": original["id"], "target_category_id": 2}
    copy = post(client, "/migrate/from-current", body)
    expected = {**PLAN, "category_id": 2, "content": "text", "version": 2}
    assert copy.items() >= expected.items()
    body |= {"new_filename": "new.md", "source": "server"}
    renamed = post(client, "/migrate/from-current", body)
    expected |= {"filename": "new.md", "version": 1, "source": "server"}
    assert renamed.items() >= expected.items()
    assert get(client, original["id"]) == original


# Refused


@pytest.mark.parametrize("document_id", [2, 0, "abc", -1, 2**63 - 1, 2**63])
def test_an_id_that_names_no_document_is_not_found(standing: Client, document_id: object) -> None:
    path = f"{DOCUMENTS}/{document_id}"
    check_not_found(standing.get(path))
    check_not_found(standing.put(path, json={"content": "new"}))
    check_not_found(standing.delete(path))
    check_not_found(standing.get(f"{path}/diff"))
    check_not_found(standing.get(f"{path}/diff", params={"against": 1}))


def test_a_document_that_is_named_in_a_request_must_exist(standing: Client) -> None:
    check_not_found(standing.get(f"{DOCUMENTS}/1/diff", params={"against": 2}))
    check_not_found(standing.post(f"{DOCUMENTS}/merge", json={"document_ids": [1, 2]}))
    copy, history = f"{DOCUMENTS}/migrate/from-current", f"{DOCUMENTS}/migrate/all-history"
    check_not_found(standing.post(copy, json={**COPY, "document_id": 2}))
    check_not_found(standing.post(history, json={**MOVE, "filename": "never.md"}))
    check_not_found(standing.post(history, json={**MOVE, "project_id": 8}))


def test_a_category_that_is_named_in_a_request_must_exist(standing: Client) -> None:
    for path, body, field in (
        ("", {**NEW, "project_id": 8}, "category_id"),
        ("/migrate/all-history", MOVE, "target_category_id"),
        ("/migrate/from-current", COPY, "target_category_id"),
    ):
        answer = standing.post(f"{DOCUMENTS}{path}", json={**body, field: 6})
        check_not_found(answer, "Category")


def test_a_history_is_not_moved_to_where_it_is(standing: Client) -> None:
    body = {**MOVE, "target_category_id": 1}
    check_conflict(standing.post(f"{DOCUMENTS}/migrate/all-history", json=body))


@pytest.mark.parametrize("value", [0, -1, 2**63, 1.5, "1", True, SECRET, [1]], ids=repr)
def test_an_id_that_cannot_be_one_is_refused(standing: Client, value: object) -> None:
    for (method, path), body in BODIES.items():
        for field in (name for name in body if name.endswith("category_id")):
            answer = standing.request(method, path, json={**body, field: value})
            check_refused(answer, field)
    body = {**COPY, "document_id": value}
    check_refused(standing.post(f"{DOCUMENTS}/migrate/from-current", json=body), "document_id")
    body = {"document_ids": [1, value]}
    check_refused(standing.post(f"{DOCUMENTS}/merge", json=body))


@pytest.mark.parametrize("value", [-1, 2**63, 1.5, "1", True, SECRET, [1]], ids=repr)
def test_a_number_that_cannot_be_one_is_refused(standing: Client, value: object) -> None:
    for field in ("project_id", "version", "related_log_id"):
        check_refused(standing.post(DOCUMENTS, json={**NEW, field: value}), field)
    check_refused(standing.post(DOCUMENTS, json={**NEW, "version": 0}), "version")


@pytest.mark.parametrize("value", [1, True, None, [SECRET], {"text": SECRET}], ids=repr)
def test_a_text_that_is_none_is_refused(standing: Client, value: object) -> None:
    for field in ("filename", "content", "source"):
        check_refused(standing.post(DOCUMENTS, json={**NEW, field: value}), field)
        check_refused(standing.put(f"{DOCUMENTS}/1", json={field: value}), field)


@pytest.mark.parametrize(
    ("field", "value"), [("filename", ""), ("filename", SECRET * 12), ("source", SECRET)]
)
def test_a_text_out_of_bounds_is_refused(standing: Client, field: str, value: str) -> None:
    check_refused(standing.post(DOCUMENTS, json={**NEW, field: value}), field)
    check_refused(standing.put(f"{DOCUMENTS}/1", json={field: value}), field)


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_an_unknown_field_is_refused_not_dropped(standing: Client, method: str, path: str) -> None:
    body = {**BODIES[method, path], "title": SECRET}
    check_refused(standing.request(method, path, json=body), "title")


def test_a_field_that_is_needed_must_be_there(standing: Client) -> None:
    for (method, path), body in BODIES.items():
        for field in body.keys() - {"project_id"}:
            without = {name: value for name, value in body.items() if name != field}
            check_refused(standing.request(method, path, json=without), field)
    history = standing.get(f"{DOCUMENTS}/history")
    check_refused(history, "project_id", "category_id", "filename")
    check_refused(standing.post(f"{DOCUMENTS}/merge", json={"document_ids": []}), "document_ids")


def test_a_version_keeps_its_project_and_category(standing: Client) -> None:
    for field in ("project_id", "category_id", "version"):
        check_refused(standing.put(f"{DOCUMENTS}/1", json={field: 1}), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project_id", "-1"),
        ("project_id", str(2**63)),
        ("category_id", SECRET),
        ("sort_by", "content"),
        ("sort_by", SECRET),
        ("order", SECRET),
        ("page", "0"),
        ("page", SECRET),
        ("page_size", "0"),
        ("page_size", SECRET),
    ],
)
def test_latest_is_asked_for_in_known_terms(standing: Client, field: str, value: str) -> None:
    check_refused(standing.get(LATEST, params={field: value}), field)


@pytest.mark.parametrize("body", NO_OBJECT)
def test_a_body_that_is_no_json_object_is_refused(standing: Client, body: str) -> None:
    for method, path in BODIES:
        check_refused(send(standing, method, path, body))


@pytest.mark.parametrize("value", UNSTORABLE)
def test_a_value_that_could_not_come_back_as_sent_is_refused(standing: Client, value: str) -> None:
    rest = '"category_id": 1, "filename": "plan.md"'
    check_refused(send(standing, "POST", DOCUMENTS, f'{{{rest}, "content": {value}}}'))
    check_refused(send(standing, "PUT", f"{DOCUMENTS}/1", f'{{"content": {value}}}'))


@pytest.mark.parametrize("value", UNPARSABLE)
def test_a_body_that_no_parser_survives_is_refused(standing: Client, value: bytes) -> None:
    for method, path in BODIES:
        check_refused(send(standing, method, path, b'{"content": %b}' % value))
