"""What Poe would refuse or ignore, by name; what it sends differently from OpenAI.

Sources: Poe's documentation of its OpenAI-compatible API, and replies recorded in Poe's own public
repository; where a line rests on something else, it says so.
"""

from datetime import UTC, datetime
from typing import Any

from errors import Invalid
from fields import iso

# Documented as ignored. Since April 2026 fields that a model does not declare may be refused
# instead, so they are not sent at all.
IGNORED = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "metadata",
        "presence_penalty",
        "response_format",
        "seed",
        "service_tier",
        "store",
        "user",
    }
)
# Its model list gives times in milliseconds, its points in microseconds; no date in seconds is as
# large.
MILLISECONDS = 100_000_000_000
MICROSECONDS = 1000 * MILLISECONDS


def request(body: dict[str, Any]) -> dict[str, Any]:
    """A chat completion's body as Poe takes it. Invalid where it asks for what Poe cannot do."""
    if body.get("n") not in (None, 1):
        raise Invalid("must be 1 for a model on Poe", field="n")
    kept = {name: value for name, value in body.items() if name not in IGNORED}
    messages = kept.get("messages")
    if isinstance(messages, list):
        kept["messages"] = [_message(message) for message in messages]
    return kept


def _message(message: Any) -> Any:
    # Refused with a 400, "should be 'system', 'user' or 'bot'" (CherryHQ/cherry-studio#8742).
    if isinstance(message, dict) and message.get("role") == "developer":
        return {**message, "role": "system"}
    return message


def seconds(created: int) -> int:
    """A model's time in seconds, whichever it was given in."""
    return created // 1000 if created >= MILLISECONDS else created


def moment(created: float) -> str | None:
    """The time of a call that took points, in whichever unit it was given; None if it is none."""
    unit = 1_000_000 if created >= MICROSECONDS else 1000 if created >= MILLISECONDS else 1
    try:
        return iso(datetime.fromtimestamp(created / unit, UTC))
    except (ValueError, OverflowError, OSError):
        return None
