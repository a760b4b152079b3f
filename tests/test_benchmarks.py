"""The benchmarks run: what they measure is not judged here."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_one_command_measures_and_prints_a_table() -> None:
    names = ["turn", "grouped"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    assert head == ["", "direct", "floor", "service", "× direct", "× floor"]
    measured = {row[0]: row[3] for row in rows}
    for name in ("first token, added, p50", "100 conversations, grouped, p50"):
        assert measured[name] not in ("", "–")
