"""The scripts' own log, in every shell: where it is, and that nothing but the scripts writes its lines."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from app.compiler import scripts
from tests.conformance.pair import SHELLS, needs

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("shell", SHELLS)]


def run(which: str, shell: str, folder: Path, prefix: Path) -> None:
    """Run a script whose binary does nothing."""
    binary = folder / "app"
    binary.write_text("#!/bin/sh\nexit 0\n")
    binary.chmod(0o700)
    make = {"pre": scripts.pre_script, "post": scripts.post_script}[which]
    script = folder / f"{which}.sh"
    script.write_text(make(binary=str(binary), directory=str(folder), limit=5))
    done = subprocess.run(
        [*needs(shell), str(script)],
        env={**os.environ, "STILLFRAME_PREFIX": str(prefix), "CDPATH": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("which", ["pre", "post"])
def test_the_log_is_found_through_a_link_on_the_way(on_tmpfs: Path, shell: str, which: str) -> None:
    (on_tmpfs / "disk").mkdir()
    (on_tmpfs / "prefix").mkdir()
    (on_tmpfs / "prefix/var").symlink_to(on_tmpfs / "disk")
    (on_tmpfs / "stillframe").mkdir()
    for number in (1, 2):
        run(which, shell, on_tmpfs, on_tmpfs / "prefix")
        text = (on_tmpfs / f"disk/log/stillframe/{which}.log").read_text()
        assert text.count(f" {which}: exit 0\n") == number
    assert not list((on_tmpfs / "stillframe").iterdir())


@pytest.mark.parametrize("which", ["pre", "post"])
def test_a_link_in_the_logs_place_leads_to_no_folder_of_roots(on_tmpfs: Path, shell: str, which: str) -> None:
    victim = on_tmpfs / "logrotate.d"
    victim.mkdir()
    logs = on_tmpfs / "prefix/var/log"
    logs.mkdir(parents=True)
    (logs / "stillframe").symlink_to(victim)
    run(which, shell, on_tmpfs, on_tmpfs / "prefix")
    assert not list(victim.iterdir())
    assert list(logs.iterdir()) == [logs / "stillframe"]


def test_a_link_in_the_place_of_the_log_itself_is_not_followed(on_tmpfs: Path, shell: str) -> None:
    folder = on_tmpfs / "prefix/var/log/stillframe"
    folder.mkdir(parents=True)
    (folder / "post.log").symlink_to(on_tmpfs / "victim")
    run("post", shell, on_tmpfs, on_tmpfs / "prefix")
    assert not (on_tmpfs / "victim").exists()


def test_what_the_holder_says_is_one_line_as_it_is(on_tmpfs: Path, shell: str) -> None:
    words = r"released\nforged: \033[2J \c %s -n $(id) `id` 'x \\"
    place = on_tmpfs / "prefix/run/stillframe"
    place.mkdir(parents=True)
    for name in ("control", "answer"):
        os.mkfifo(place / name, 0o600)
    control = os.open(place / "control", os.O_RDWR | os.O_CLOEXEC)
    answer = os.open(place / "answer", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(answer, f"0 {words}\n".encode())
        run("post", shell, on_tmpfs, on_tmpfs / "prefix")
        assert os.read(control, 100) == b"release\n"
    finally:
        os.close(control)
        os.close(answer)
    lines = (on_tmpfs / "prefix/var/log/stillframe/post.log").read_text().splitlines()
    assert [line.partition(" post: ")[2] for line in lines] == [words, "exit 0"]
