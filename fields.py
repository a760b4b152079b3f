"""The kinds of value that a request may carry, and the rules that every body obeys."""

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from sqlmodel import Field, SQLModel

MAX_ID = 2**63 - 1
MAX_VERSION = 1_000_000_000


def now() -> str:
    """The present moment, as it is stored and sent."""
    return iso(datetime.now(UTC))


def iso(moment: datetime) -> str:
    """A moment as it is stored and sent: ISO 8601, UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _to_utc(value: str) -> str:
    """A time without an offset is the server's local time."""
    try:
        return iso(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        raise ValueError("must be a time in ISO 8601, such as 2026-01-31T09:30:00Z") from None


def _whole(value: object) -> object:
    """JSON has one kind of number: 2.0 is the integer 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _zero_if_null(value: object) -> object:
    return 0 if value is None else value


# Times are kept as text of one width: SQLite has no type for them, text of one width sorts by time,
# and what is stored is what is sent.
Time = Annotated[
    str, AfterValidator(_to_utc), WithJsonSchema({"type": "string", "format": "date-time"})
]
Label = Annotated[str, StringConstraints(min_length=1, max_length=255)]
WHOLE = BeforeValidator(_whole)
Id = Annotated[int, Ge(1), Le(MAX_ID), WHOLE]
IdOrZero = Annotated[int, Ge(0), Le(MAX_ID), WHOLE]
ProjectId = Annotated[
    IdOrZero,
    BeforeValidator(_zero_if_null),
    WithJsonSchema({"type": ["integer", "null"], "minimum": 0, "maximum": MAX_ID}),
]


UNSTORABLE = re.compile("[\0\ud800-\udfff]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_DEPTH = 100
MAX_FIELDS = 100


def refuse_unstorable(value: Any, depth: int = 0) -> None:
    """Refuse, anywhere in a body, what cannot come back as it was sent."""
    if depth > MAX_DEPTH:
        raise ValueError(f"values may be nested {MAX_DEPTH} deep at most")
    if isinstance(value, str) and UNSTORABLE.search(value):
        raise ValueError("text may contain neither NUL characters nor lone surrogates")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    if isinstance(value, dict):
        for key in value:
            refuse_unstorable(key)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            refuse_unstorable(item, depth + 1)


def storable(text: str) -> str:
    """A text of somebody else's, with what cannot be kept replaced."""
    return UNSTORABLE.sub(REPLACEMENT, text) if UNSTORABLE.search(text) else text


def repaired(value: Any) -> Any:
    """The same without what can be neither stored nor sent on as JSON."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [repaired(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): repaired(item) for key, item in value.items()}
    return value


def number(value: Any) -> float | None:
    """A figure of somebody else's, also one that is written as text; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


# What the service sets itself in a model call, and what would send it or the key elsewhere.
SET_BY_SERVICE = frozenset({"model", "messages", "stream", "stream_options"})
NAMES_AN_ENDPOINT = re.compile(
    r"url|header|api_?base|api_?key|authorization|endpoint|proxy|extra_(body|query)|timeout", re.I
)


def _harmless(options: dict[str, Any]) -> dict[str, Any]:
    for name in options:
        if name in SET_BY_SERVICE or NAMES_AN_ENDPOINT.search(name):
            raise ValueError(f"{name} may not be set here")
    return options


Options = Annotated[dict[str, Any], AfterValidator(_harmless)]

# Existing clients send "" in these fields for what they do not have.
BLANK_IS_ABSENT = frozenset(
    {
        "name",
        "model",
        "assistance_role",
        "llm_model",
        "summary_model",
        "auto_save_category_id",
        "project_id",
        "new_filename",
        "version",
        "source",
        "related_log_id",
        "created_at",
    }
)


ABOUT_A_FIELD = ("title", "description", "default")


def or_blank(kinds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kinds of a value in JSON Schema, and that it may be blank."""
    for kind in kinds:
        if kind.get("type") == "string" and not kind.keys() & {"enum", "format", "pattern"}:
            kind.pop("minLength", None)
            return kinds
    return [*kinds, {"type": "string", "maxLength": 0}]


def _allow_blanks(schema: dict[str, Any]) -> None:
    """Say in a body's JSON Schema which fields may be blank."""
    for name, field in schema["properties"].items():
        if name in BLANK_IS_ABSENT and name not in schema.get("required", []):
            told = {key: field.pop(key) for key in [*field] if key in ABOUT_A_FIELD}
            kinds = field.pop("anyOf", None) or [dict(field)]
            schema["properties"][name] = {"anyOf": or_blank(kinds), **told}


class Body(SQLModel):
    """A request body: exactly the declared fields, of exactly the declared types."""

    model_config = ConfigDict(  # type: ignore[assignment]
        extra="forbid", strict=True, json_schema_extra=_allow_blanks
    )

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, data: Any) -> Any:
        refuse_unstorable(data)
        if not isinstance(data, dict):
            return data
        if len(data) > MAX_FIELDS:
            raise ValueError(f"there may be {MAX_FIELDS} fields at most")
        return {k: v for k, v in data.items() if v != "" or k not in BLANK_IS_ABSENT}


class Update(Body):
    """A change: fields that are left out stay as they are."""

    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


# The default of a field that an update may leave out but not set to null; it is never read.
UNSET = Field(default_factory=str)
