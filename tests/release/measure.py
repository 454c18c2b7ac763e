"""How fast the release starts, how large it is and what its helpers keep in memory.

python -m tests.release.measure [BINARY]     prints one line a figure; exit 1 where one is over its limit
"""

from __future__ import annotations

import json
import os
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


def resident(binary: str, folder: str) -> dict[str, float]:
    """Resident memory in MB of the processes of a hold that ``pre.sh`` leaves behind, by their roles."""
    policy = Path(folder, "held.toml")
    policy.write_text(POLICY + "[freeze]\nenabled = false\n", encoding="utf-8")
    azure, environ = f"{folder}/held", {**os.environ, "STILLFRAME_PREFIX": f"{folder}/prefix"}
    where = Path(binary).resolve()
    subprocess.run(
        [binary, "compile", policy, "--out", azure, "--binary", where], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(["sh", f"{azure}/stillframe/pre.sh"], check=True, env=environ)
    try:
        said = subprocess.run([binary, "status", "--json"], check=True, env=environ, capture_output=True)
        pids = {entry["role"]: entry["pid"] for entry in json.loads(said.stdout)["processes"]}
        lines = {role: Path(f"/proc/{pid}/status").read_text(encoding="ascii") for role, pid in pids.items()}
    finally:
        subprocess.run(["sh", f"{azure}/stillframe/post.sh"], check=True, env=environ)
    return {role: int(text.split("VmRSS:")[1].split()[0]) / 1000 for role, text in lines.items()}


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
        kept = resident(binary, folder)
    say("size", Path(binary).stat().st_size / 1e6, "MB", 11)
    print(f"{bare:<28} {times[bare]:8.1f} ms")
    limits = {"app --version": 6, "app validate": 15, "app compile": 15, "app pre --help": 15}
    for name, limit in limits.items():
        say(f"{name} ({times[name]:.0f} ms)", times[name] / times[bare], "times", limit)
    say("holder and watchdog, resident", kept["holder"] + kept["watchdog"], "MB", 40)
    print(f"  of which holder {kept['holder']:.1f} MB, watchdog {kept['watchdog']:.1f} MB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "dist/release/app")))
