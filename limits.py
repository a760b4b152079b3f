"""How much may go on at once: so many, and the next is refused until one has ended."""

from collections.abc import Iterator
from contextlib import contextmanager

from errors import ServiceError

# In seconds; what a reply takes to end, more or less.
RETRY_AFTER = "5"


class Limit:
    """A number of places, and the setting that says how many."""

    def __init__(self, most: int, setting: str) -> None:
        self._most = most
        self._setting = setting
        self._taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places, as long as the block runs."""
        self.check(self._taken)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def check(self, taken: int) -> None:
        """Refuse with 429 when so many are taken that there is none left."""
        if taken >= self._most:
            detail = f"{self._most} at once are the most: try again soon, or raise {self._setting}"
            raise ServiceError(detail, status=429, headers={"Retry-After": RETRY_AFTER})
