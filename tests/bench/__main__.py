"""How long writers stand still, how soon they go on after a backup, and what the look beforehand takes.

    python -m tests.bench [--quick] [--json FILE] [--svg FILE] [--keep] [--binary PATH]

``app run`` against plain ``fsfreeze`` and against the backup extension's own sequence, with dirty pages to
write back, on ext4 and xfs, on one filesystem and several. A writer appends 1 KiB a millisecond to a file on
each of up to eight of them; what counts is the longest time between two writes. Each way begins with the same
dirty pages on the same filesystems, in turns. Then the release by ``post.sh``, and the look for hazards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from tests.bench import dirt, looks, machine, release, stalls
from tests.bench.figures import Figures
from tests.bench.ways import ways

KEPT = Path(__file__).with_name("figures")


def main() -> int:
    """Measure, print, and say which aims were reached; 0 once measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="ext4 only, two rounds: a minute or two")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the picture there")
    parser.add_argument("--keep", action="store_true", help=f"write all into {KEPT.name}/ beside the bench")
    parser.add_argument("--binary", default=str(Path(sys.executable).with_name("app")), metavar="PATH")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: needs root: loop devices, mounts and freezing", file=sys.stderr)
        return 4

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # what is frozen is thawed on the way out

    signal.signal(signal.SIGTERM, leave)
    if arguments.keep:
        KEPT.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        below = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/run"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sf-bench-", dir=below)))
        figures = measure(arguments.binary, folder, quick=arguments.quick)
    print(f"\n{figures.table()}\n")
    print("longest stall of a writer in milliseconds, medians; its ratios are ours to theirs\n")
    for aim in figures.aims():
        print(aim.line())
    for place in filter(None, (arguments.json, arguments.keep and KEPT / "figures.json")):
        place.write_text(json.dumps(figures.facts(), indent=1) + "\n", encoding="utf-8")
    for place in filter(None, (arguments.svg, arguments.keep and KEPT / "stall.svg")):
        place.write_text(figures.picture(), encoding="utf-8")
    if arguments.keep:
        (KEPT / "figures.md").write_text(figures.markdown(), encoding="utf-8")
    return 0


def measure(command: str, folder: Path, *, quick: bool) -> Figures:
    """One run. ``folder``: on a tmpfs, which nothing here freezes."""
    found = machine.look()
    print("\n".join(found.lines()), flush=True)
    print(f"\n{'kind':<5} {'num':>3} {'dirty':>6} {'way':<13} {'round':>5} {'stall ms':>10} {'held ms':>8}")
    measured = []
    cases = stalls.cases(quick=quick)
    with dirt.dirty_pages_stay(2 * max(case.megabytes for case in cases)):
        measuring = ways(command, folder)
        for case in cases:
            measured += stalls.measure(case, measuring, lambda line: print(line, flush=True))
    rounds = 5 if quick else 20
    places = [folder / name for name in ("sqlite", "postgresql")]
    for place in places:
        place.mkdir()
    latencies = [release.sqlite(command, places[0], rounds), release.postgresql(command, places[1], rounds)]
    if latencies[1] is None:
        print("PostgreSQL: no server of version 15 or later is installed, so its release was not measured")
    return Figures(found, measured, [one for one in latencies if one], looks.measure(rounds))


if __name__ == "__main__":
    sys.exit(main())
