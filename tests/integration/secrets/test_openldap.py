"""A bind password that is changed while the directory is read-only: it is writable again afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.secrets.hiding import check_hidden, new_canary, secret_file
from tests.integration.secrets.logins.openldap import policy, set_password
from tests.integration.stage import Stage
from tests.servers.engines.openldap import Directory, ReadOnly
from tests.servers.ground import TIMING

pytestmark = [pytest.mark.integration, pytest.mark.root]


@pytest.fixture
def directory() -> Iterator[Directory]:
    if missing := ReadOnly().missing():
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="sf-ldap-", dir="/dev/shm") as folder:
        Path(folder).chmod(0o755)
        with ReadOnly().server(Path(folder, "data")) as server:
            assert isinstance(server, Directory)
            yield server


def test_who_releases_it_reads_the_secret_anew(here: Stage, canary: str, directory: Directory) -> None:
    """Every command logs in, the last ones with a password that is none any more: that proves nothing."""
    set_password(directory, canary)
    file = secret_file(here, canary)
    rest = '[freeze]\nenabled = false\n[snapshot]\nprovider = "none"\nseconds = 1\n'
    chosen = f'name = "people"\n{policy(directory)}[secrets.password]\nfile = "{file}"\n{TIMING}{rest}'
    cycle = here.start("run", "--json", here.policy(chosen))
    cycle.when("snapshot_begin")
    assert directory.read_only() == "TRUE"
    later = new_canary()
    set_password(directory, later)
    file.write_text(f"{later}\n")
    assert cycle.wait() == 1, cycle.output + cycle.errors
    assert directory.read_only() == ""
    (report,) = here.reports()
    (people,) = report["applications"]
    assert (people["held"], people["stuck"], report["stuck"]) == (False, False, [])
    for secret in (canary, later):
        check_hidden(here, cycle, secret, held=False)
