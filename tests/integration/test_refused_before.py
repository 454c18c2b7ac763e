"""A hold that is refused before it has begun leaves nothing that looks like one."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.stage import Stage, stage

pytestmark = pytest.mark.integration

PLAIN = 'name = "plain"\nextends = "filesystem"\n[freeze]\nenabled = false\n[snapshot]\nprovider = "none"\n'


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


def test_a_manifest_that_has_no_place(here: Stage) -> None:
    policy = here.policy(f'{PLAIN}manifest = "{here.folder}/missing/held.json"\n')
    status, _, errors = here.app("run", policy)
    assert status == 4
    assert f"{here.folder}/missing" in errors
    assert here.app("status")[0] == 0
    assert here.app("recover")[:2] == (0, "nothing was left behind\n")
    assert here.reports() == []


@pytest.mark.root
def test_a_link_on_the_way_to_what_is_believed_after_a_crash(here: Stage) -> None:
    """It would be refused then, with the application still held."""
    real = here.folder / "elsewhere"
    real.mkdir()
    here.prefix.mkdir()
    (here.prefix / "var").symlink_to(real)
    status, _, errors = here.app("run", here.policy(PLAIN))
    assert status == 4
    assert "symbolic link" in errors


def test_nobody_reads_what_run_says(here: Stage) -> None:
    """Its progress ends in a closed pipe: the hold matters more."""
    policy = here.policy(PLAIN)
    reader, writer = os.pipe()
    os.close(reader)
    here.prefix.mkdir()
    environ = {**os.environ, "STILLFRAME_PREFIX": str(here.prefix)}
    argv = [*here.command, "run", "--json", str(policy)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=writer, env=environ)
    os.close(writer)
    report = json.loads(done.stdout)
    assert (report["snapshot"]["state"], done.returncode) == ("rehearsed", report["exit"])
