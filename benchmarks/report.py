"""The table: a line for each figure, Markdown that can be read as it is."""

import math
import os
import platform
import sqlite3
from collections.abc import Sequence
from statistics import median

from benchmarks.bench import DIRECT, FLOOR, SERVICE, Row

NONE = "–"


def machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def table(rows: Sequence[Row], against: str | None) -> str:
    """The figures, and the service's as multiples of the others'."""
    shown = [DIRECT, FLOOR, SERVICE, *([against] if against else [])]
    ratios = [(DIRECT, f"× {DIRECT}"), (FLOOR, f"× {FLOOR}")]
    if against:
        ratios.append((against, "change"))
    lines = [["", *shown, *(title for _, title in ratios)]]
    for row in rows:
        figures = [_figure(row.values.get(name), row.unit) for name in shown]
        lines.append([row.name, *figures, *(_ratio(row, name) for name, _ in ratios)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return f"| {' | '.join([first, *rest])} |"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return NONE
    digits = 0 if value >= 100 or not unit else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}".strip()


def _ratio(row: Row, name: str) -> str:
    mine, other = row.values.get(SERVICE), row.values.get(name)
    if mine is None or not other or other < 0:
        return NONE
    if name in (DIRECT, FLOOR):
        return f"{mine / other:.2f}" if mine < other * 10 else f"{mine / other:.0f}"
    if row.samples:
        return _change(row.samples[SERVICE], row.samples[name])
    return f"{mine / other - 1:+.0%}"


def _change(mine: Sequence[float], other: Sequence[float]) -> str:
    """The median of the pairs' differences, and how far it may be off, 19 times out of 20."""
    pairs = sorted(one - two for one, two in zip(mine, other, strict=True))
    middle, off = len(pairs) // 2, math.ceil(0.98 * math.sqrt(len(pairs)))
    low, high = pairs[max(middle - off, 0)], pairs[min(middle + off, len(pairs) - 1)]
    whole = median(other)
    return f"{pairs[middle] / whole:+.1%} ± {(high - low) / 2 / whole:.1%}"
