"""OpenLDAP's olcReadOnly is put back as it was found, and where nothing was written nothing is."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.integration.stage import Stage
from tests.servers.conftest import of
from tests.servers.engines import openldap
from tests.servers.engines.openldap import REFUSED, SUFFIX, Directory, Refused, speak
from tests.servers.ground import Ground

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

read_only = pytest.mark.parametrize("grounded", [of(openldap.ENGINES[1])], indirect=True)
before = pytest.mark.parametrize("before", ["", "FALSE"], ids=["unwritten", "FALSE"])


def server_of(grounded: Ground) -> Directory:
    """It, with its own ways."""
    assert isinstance(grounded.server, Directory)
    return grounded.server


def is_refused(server: Directory) -> bool:
    """Whether a writer is."""
    change = f"dn: {SUFFIX}\nchangetype: modify\nreplace: description\ndescription: x\n"
    try:
        speak(server.uri, "ldapmodify", text=change)
    except Refused as error:
        if error.status != REFUSED:
            raise
        return True
    return False


@read_only
@before
def test_a_hold_puts_it_back(grounded: Ground, here: Stage, before: str) -> None:
    server = server_of(grounded)
    server.set_read_only(before)
    cycle = here.start("run", "--json", grounded.rehearsal(here, 1, freeze=False))
    cycle.when("snapshot_begin")
    assert (server.read_only(), is_refused(server)) == ("TRUE", True)
    assert cycle.wait(20) == 0, cycle.output + cycle.errors
    (report,) = here.reports()
    assert (report["achieved"], report["applications"][0]["saved"]["read_only"]) == ("application", before)
    assert (server.read_only(), is_refused(server)) == (before, False)


@read_only
@before
def test_recover_puts_it_back(grounded: Ground, here: Stage, before: str) -> None:
    """Everybody was killed, as by a power cut: the setting stands in cn=config until it is taken back."""
    server = server_of(grounded)
    server.set_read_only(before)
    cycle = here.start("run", "--json", grounded.rehearsal(here, 5, freeze=False))
    cycle.when("snapshot_begin")
    pids = [cycle.pid(who) for who in ("app", "watchdog", "holder", "keeper")]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
    cycle.wait(10)
    here.wait_until_free(5)
    assert is_refused(server)
    status, output, errors = here.app("recover", "--json")
    assert status == 0, errors
    assert json.loads(output)["released"] == ["openldap-read-only"]
    assert (server.read_only(), is_refused(server)) == (before, False)


@read_only
def test_a_database_that_is_read_only_stays_so(grounded: Ground, here: Stage) -> None:
    server = server_of(grounded)
    server.set_read_only("TRUE")
    try:
        status, report = here.run(grounded.rehearsal(here, 0, freeze=False))
        assert (status, report["achieved"], server.read_only()) == (0, "application", "TRUE"), report
    finally:
        server.set_read_only("FALSE")
