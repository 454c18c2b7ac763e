"""The bench's own parts: what it draws, what it counts as a stall, and the sequence it is held against."""

from __future__ import annotations

import fcntl
import itertools
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import scratch
from tests.bench import extension_sequence
from tests.bench.picture import Panel, Point, svg
from tests.bench.writers import Writers, spread

SVG = "{http://www.w3.org/2000/svg}"


def test_picture_has_a_line_for_each_way() -> None:
    points = [Point(5, 4, 6), Point(900, 800, 1500)]
    panel = Panel("a < b", "GB", [(0.0, "0"), (1.5, "1.5")], {"ours": points, "theirs": points[::-1]})
    drawn = svg("Stalls", ["a machine & its disk"], [panel, panel])
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    assert len(root.findall(f".//{SVG}polyline")) == 4
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert "a < b" in texts
    assert "ours 900" in texts
    assert "theirs 5" in texts
    assert "a machine & its disk" in texts
    assert "prefers-color-scheme: dark" in drawn
    heights = {line.get("points", "").split()[0].split(",")[1] for line in root.iter(f"{SVG}polyline")}
    assert len(heights) == 2, "what is longer stands higher"


def test_names_that_end_at_one_height_do_not_overlap() -> None:
    one = [Point(5, 5, 5), Point(5, 5, 5)]
    panel = Panel("t", "x", [(0.0, "0"), (1.0, "1")], {"a": one, "b": one, "c": one})
    texts = ET.fromstring(svg("h", [], [panel])).iter(f"{SVG}text")  # noqa: S314 - our own
    names = [float(text.get("y", "0")) for text in texts if (text.text or "").endswith(" 5")]
    assert len(names) == 3
    assert min(after - before for before, after in itertools.pairwise(names)) > 13.9


def test_writers_are_spread_over_many_filesystems() -> None:
    places = [Path(f"/{number}") for number in range(32)]
    chosen = spread(places)
    assert (len(chosen), len(set(chosen)), chosen[0], chosen[-1]) == (8, 8, places[0], places[-1])
    assert spread(places[:3]) == places[:3]


@pytest.mark.integration
@pytest.mark.root
@pytest.mark.slow
def test_extension_sequence(scratch_filesystem: Callable[..., scratch.Volume], on_tmpfs: Path) -> None:
    """With nothing to write it freezes for what is left until its parent looks: a second, of 3 and 4."""
    mounts = [scratch_filesystem("ext4", 64).mount for _ in range(2)]
    argv = [sys.executable, extension_sequence.__file__, str(on_tmpfs / "lock"), *map(str, mounts)]
    with Writers([mount / "log" for mount in mounts]) as writers:
        begun = time.monotonic()
        status = subprocess.run(argv).returncode
        ended = time.monotonic()
        time.sleep(0.1)
    assert status == 0
    assert not any(scratch.is_frozen(mount) for mount in mounts)
    assert 0.7 < writers.longest_stall(begun, ended) < 1.5
    assert writers.longest_stall(begun, begun + 2.5) < 0.7, "the 3 s before are not in the freeze"


@pytest.mark.integration
def test_extension_sequence_needs_its_lock(on_tmpfs: Path) -> None:
    with (on_tmpfs / "lock").open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        argv = [sys.executable, extension_sequence.__file__, held.name, "/nowhere"]
        assert subprocess.run(argv, stderr=subprocess.DEVNULL).returncode == 1
