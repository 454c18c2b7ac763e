"""The policy container on a real container of podman's: paused for the hold, let go by whoever survives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import Container, container, missing
from tests.integration.stage import Stage, stage

pytestmark = [pytest.mark.integration, pytest.mark.root]

TICK = "i=0; while :; do i=$((i+1)); echo $i >/out/tick; sleep 0.02; done"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ticks")


@pytest.fixture(scope="module")
def box(folder: Path) -> Iterator[Container]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if missing():
        pytest.skip(f"needs {missing()}")
    with container("sf-paused", ["sh", "-c", TICK], [f"{folder}:/out"]) as made:
        paused = subprocess.run([made.podman, "pause", made.name], capture_output=True, text=True)
        if paused.returncode:
            pytest.skip(f"containers cannot be paused here: {paused.stderr.strip()[-200:]}")
        subprocess.run([made.podman, "unpause", made.name], check=True, capture_output=True)
        yield made


@pytest.fixture
def here(app_command: list[str], box: Container) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made
    assert state(box) == "running"


def state(box: Container) -> str:
    argv = [str(box.podman), "inspect", "--type", "container", "--format", "{{.State.Status}}", box.name]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def ticks(folder: Path, seconds: float = 0.2) -> bool:
    """Whether the container does anything."""
    before = (folder / "tick").read_text()
    time.sleep(seconds)
    return (folder / "tick").read_text() != before


def policy(here: Stage, box: Container, seconds: float = 0.5) -> Path:
    return here.policy(
        f"""
        name = "box"
        extends = "container"
        [settings]
        engine = "{box.podman}"
        container = "{box.name}"
        [timing]
        quiesce = 20
        retries = 0
        hold = 30
        release = 20
        [freeze]
        enabled = false
        timeout = 10
        [snapshot]
        provider = "none"
        seconds = {seconds}
        """
    )


def test_it_stands_still_for_the_hold_and_says_crash(here: Stage, box: Container, folder: Path) -> None:
    cycle = here.start("run", "--json", policy(here, box, 1))
    cycle.when("snapshot_begin")
    assert state(box) == "paused"
    assert not ticks(folder)
    assert cycle.wait(60) == 0, cycle.errors
    (report,) = here.reports()
    assert (report["achieved"], report["applications"][0]["held"]) == ("crash", True)
    assert ticks(folder)


@pytest.mark.parametrize("who", ["keeper", "holder"])
def test_a_death_lets_it_go_on(here: Stage, box: Container, folder: Path, who: str) -> None:
    cycle = here.start("run", "--json", policy(here, box, 2))
    cycle.when("snapshot_begin")
    os.kill(cycle.pid(who), signal.SIGKILL)
    give_up = time.monotonic() + 10
    while not ticks(folder, 0.1):
        assert time.monotonic() < give_up
    status = cycle.wait(60)
    here.wait_until_free(10)
    for report in here.reports():
        assert not report["applications"][0]["held"]
    assert status not in (0, 7)


def test_a_reboot_lets_it_go_on(here: Stage, box: Container, folder: Path) -> None:
    cycle = here.start("run", "--json", policy(here, box, 5))
    cycle.when("snapshot_begin")
    victims = [cycle.pid(who) for who in ("keeper", "watchdog", "holder", "app")]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in victims:
            os.kill(pid, number)
    cycle.wait(15)
    here.wait_until_free(5)
    shutil.rmtree(here.paths.run)
    assert state(box) == "paused"
    status, output, errors = here.app("recover")
    assert status == 0, output + errors
    assert ticks(folder)


def test_what_is_paused_already_is_left_alone(here: Stage, box: Container, folder: Path) -> None:
    subprocess.run([box.podman, "pause", box.name], check=True, capture_output=True)
    try:
        _, report = here.run(policy(here, box))
        assert not report["applications"][0]["held"]
        assert "paused" in report["applications"][0]["because"][0]
        assert state(box) == "paused"
    finally:
        subprocess.run([box.podman, "unpause", box.name], check=True, capture_output=True)


def test_unpaused_by_somebody_else_is_not_held(here: Stage, box: Container) -> None:
    cycle = here.start("run", "--json", policy(here, box, 1))
    cycle.when("snapshot_begin")
    subprocess.run([box.podman, "unpause", box.name], check=True, capture_output=True)
    cycle.wait(60)
    (report,) = here.reports()
    assert not report["applications"][0]["held"]


def test_no_such_container(here: Stage, box: Container) -> None:
    chosen = policy(here, box)
    chosen.write_text(chosen.read_text().replace(f'"{box.name}"', '"none-of-that-name"'))
    _, report = here.run(chosen)
    assert not report["applications"][0]["held"]
    assert "none-of-that-name" in report["applications"][0]["because"][0]
