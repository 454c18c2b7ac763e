"""However we are started: descriptors closed, nobody reading, an empty environment."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Run

pytestmark = pytest.mark.integration

POLICY = """version = 1
name = "fs"
extends = "filesystem"
[freeze]
enabled = false
[snapshot]
provider = "none"
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_not_taken_for_the_journal(
    closed: str, app_command: list[str], prefix: Path, tmp_path: Path, run_app: Run
) -> None:
    policy = tmp_path / "fs.toml"
    policy.write_text(POLICY)
    line = f"{shlex.join([*app_command, 'run', str(policy)])} {closed}"
    subprocess.run(["sh", "-c", line], capture_output=True, timeout=60, check=False)
    report = run_app("report", "--json")
    assert report.returncode == 0, report.stderr
    assert '"end"' in (prefix / "run/stillframe/journal").read_text()


@pytest.mark.parametrize("arguments", [["--version"], ["schema"], ["--help"]])
def test_nobody_reads_and_nothing_is_set(arguments: list[str], app_command: list[str]) -> None:
    line = f"env -i {shlex.join([*app_command, *arguments])}"
    done = subprocess.run(
        ["sh", "-c", f"{line} | true; {line} >/dev/full; test $? -ne 0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
