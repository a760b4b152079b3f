"""How cost grows with the database, and lag with the number of streams: measured, and drawn.

    python -m benchmarks.plots [--again]

writes docs/growth.json, and docs/growth.svg and docs/lag.svg from it; with `--again` only draws
what was measured before. The messages are short (three sentences at most), so that a million of
them are soon written.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks import load, report
from benchmarks.bench import (
    SERVICE,
    WARMING,
    Ask,
    Bench,
    Seed,
    Service,
    Target,
    interleaved,
    opened,
    quantile,
)
from benchmarks.processes import ROOT
from benchmarks.reads import LISTS, history_path, queries, search_path
from benchmarks.streams import LONGEST_LAG, lag

DOCS = ROOT / "docs"
FIGURES = DOCS / "growth.json"
MESSAGES = (1_000, 10_000, 100_000, 1_000_000)
IN_A_CONVERSATION = 50
SENTENCES = 3
ROUNDS = 100
STREAMS = (25, 50, 100, 150, 200, 250, 300, 400, 500, 600, 800)
LAG_SECONDS = 4
HOPELESS = 1.0  # seconds of lag, beyond which more streams are not tried

# Grey and colours that are read on white and on black.
GREY = "#808080"
COLOURS = ("#2f81f7", "#d9730d", "#2da44e", "#c93c8a", "#8957e5")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.markersize": 4,
    "savefig.transparent": True,
}

Curves = dict[str, list[tuple[float, float]]]


async def growth(bench: Bench) -> Curves:
    """Medians in milliseconds against the number of messages in the database."""
    curves: Curves = {}
    for messages in MESSAGES:
        print(f"{messages:,} messages …", file=sys.stderr)
        count = messages // IN_A_CONVERSATION
        async with bench.services(Seed(((count, IN_A_CONVERSATION),), SENTENCES)) as (service,):
            await service.prepare(ROUNDS + WARMING)
            for name, ask in _asked(service, count).items():
                answers = await interleaved([service], ROUNDS, ask)
                seconds = [answer.seconds for answer in answers[SERVICE]]
                curves.setdefault(name, []).append((messages, quantile(seconds, 0.5) * 1000))
    return curves


def _asked(service: Service, conversations: int) -> dict[str, Ask]:
    """What is asked in each round, by name."""
    words = dict(queries(service, ROUNDS))["2 Chinese characters"]

    def history(_: Target, number: int) -> bytes:
        return load.request("GET", history_path(number * 7 % conversations, IN_A_CONVERSATION))

    return {
        "all conversations, grouped": lambda *_: load.request("GET", f"{LISTS}/grouped"),
        "search": lambda _, number: load.request("GET", search_path(words[number])),
        "turn of 100 tokens": lambda target, _: target.turn("tokens-100", stream=True),
        f"history of {IN_A_CONVERSATION} messages": history,
        "50 conversations": lambda *_: load.request("GET", f"{LISTS}?limit=50"),
    }


async def lags(bench: Bench) -> Curves:
    """The p99 of lag in milliseconds against the number of streams."""
    curves: Curves = {}
    async with bench.services() as services:
        for target in [*bench.yardsticks, *services]:
            curve = curves.setdefault(target.name, [])
            for count in STREAMS:
                print(f"{target.name}, {count} streams …", file=sys.stderr)
                late = (await lag(target, count, LAG_SECONDS)).p99
                if late > HOPELESS:
                    break
                curve.append((count, late * 1000))
    return curves


def draw(figures: dict[str, Any]) -> None:
    with _plot("growth.svg", "messages in the database", "median, ms", figures["growth"]) as axes:
        axes.set_xscale("log")
    with _plot("lag.svg", "streams of 50 tokens/s", "p99 of lag, ms", figures["lag"]) as axes:
        axes.axhline(LONGEST_LAG * 1000, color=GREY, linewidth=1, linestyle=":")


@contextmanager
def _plot(name: str, x: str, y: str, curves: Curves) -> Iterator[Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for (label, points), colour in zip(curves.items(), COLOURS, strict=False):
            axes.plot(*zip(*points, strict=True), label=label, color=colour, marker="o")
        axes.set(xlabel=x, ylabel=y, yscale="log")
        axes.grid(visible=True)
        yield axes
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(DOCS / name, metadata={"Date": None, "Creator": None})


async def _measure() -> dict[str, Any]:
    with opened() as bench:
        found = {"growth": await growth(bench), "lag": await lags(bench)}
    return {"machine": report.machine(), **found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("--again", action="store_true", help="draw what was measured before")
    if not parser.parse_args().again:
        FIGURES.write_text(json.dumps(asyncio.run(_measure()), indent=1) + "\n")
    draw(json.loads(FIGURES.read_text()))


if __name__ == "__main__":
    main()
