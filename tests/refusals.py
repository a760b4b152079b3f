"""What every resource refuses, and how a refusal must look."""

import re

import httpx2
import pytest

from tests.conftest import Client

UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SECRET = "sent-and-never-repeated"
ODD = '👩‍👧 \u202eعربي שלום\r\nline\rend\n\u2028\u2029\x85\x01\x7f\t"\\/\ufeff\uffff '
LONG = ODD + "汉字" * 17_000  # 100 kB
NO_OBJECT = ["", "null", "1", SECRET, f'"{SECRET}"', f'["{SECRET}"]', f'{{"name": "{SECRET}']
UNSTORABLE = [
    rf'"{SECRET}\u0000"',
    rf'"{SECRET}\ud800"',
    rf'"\udc00{SECRET}"',
    rf'["{SECRET}", NaN]',
    rf'["{SECRET}", -Infinity]',
]
UNPARSABLE = [
    pytest.param(b"[" * 10_000 + b"]" * 10_000, id="deep arrays"),
    pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, id="deep objects"),
    pytest.param(b'"\xff"', id="no UTF-8"),
]


def send(client: Client, method: str, path: str, body: str | bytes) -> httpx2.Response:
    return client.request(method, path, content=body, headers={"content-type": "application/json"})


def check_refused(answer: httpx2.Response, *fields: str) -> None:
    """A 422 that says what is wrong with these fields and repeats nothing that was sent."""
    assert answer.status_code == 422, answer.text
    body = answer.json()
    assert isinstance(body["detail"], str)
    assert all(set(error) == {"field", "message"} for error in body["errors"])
    assert not fields or [error["field"] for error in body["errors"]] == [*fields]
    assert SECRET not in answer.text


def check_conflict(answer: httpx2.Response) -> None:
    assert answer.status_code == 409, answer.text
    assert isinstance(answer.json()["detail"], str)
