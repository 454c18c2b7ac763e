"""How fast the release starts, how large it is and what its helpers keep in memory.

python -m tests.release.measure [BINARY]     prints one line a figure; exit 1 where one is over its limit
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.release.conftest import ROOT

ROUNDS = 25
POLICY = 'version = 1\nname = "plain"\nextends = "filesystem"\n'


def start_times(commands: dict[str, list[str]]) -> dict[str, float]:
    """Median wall time of each in milliseconds, taken in turns, so that a busy machine is fair to all."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
            taken[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(times) for name, times in taken.items()}


def main(binary: str) -> int:
    """Print the figures; the exit status."""
    wrong = False

    def say(what: str, value: float, unit: str, limit: float) -> None:
        nonlocal wrong
        wrong |= value > limit
        verdict = "" if value <= limit else "   OVER"
        print(f"{what:<28} {value:8.1f} {unit:<5} (at most {limit:g}){verdict}")

    with tempfile.TemporaryDirectory(prefix="stillframe-measure-") as folder:
        policy = Path(folder, "plain.toml")
        policy.write_text(POLICY, encoding="utf-8")
        bare = "/usr/bin/python3 -c 0"
        times = start_times(
            {
                bare: bare.split(),
                "app --version": [binary, "--version"],
                "app validate": [binary, "validate", str(policy)],
                "app compile": [binary, "compile", str(policy), "--out", f"{folder}/azure"],
                "app pre --help": [binary, "pre", "--help"],
            }
        )
    say("size", Path(binary).stat().st_size / 1e6, "MB", 11)
    print(f"{bare:<28} {times[bare]:8.1f} ms")
    limits = {"app --version": 6, "app validate": 15, "app compile": 15, "app pre --help": 15}
    for name, limit in limits.items():
        say(f"{name} ({times[name]:.0f} ms)", times[name] / times[bare], "times", limit)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "dist/release/app")))
