"""What a hold changes in a server outlives all of us; the next command takes it back, and once only."""

from __future__ import annotations

import contextlib
import json
import os
import signal

import pytest

from tests import scratch
from tests.integration.stage import Stage
from tests.servers.conftest import of
from tests.servers.engines import firebird, openldap, rabbitmq, redis
from tests.servers.ground import Ground

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

LASTING = (redis.ENGINES[0], openldap.ENGINES[1], firebird.ENGINES[0], rabbitmq.ENGINES[0])


@pytest.mark.parametrize("grounded", [of(engine) for engine in LASTING], indirect=True)
def test_everybody_is_killed(grounded: Ground, here: Stage) -> None:
    """As a power cut that leaves the server alone: frozen filesystem, held server, and nobody who knows."""
    mount, name = grounded.volume.mount, grounded.engine.name
    with grounded.under_load(here) as writing:
        try:
            cycle = here.start("run", "--json", grounded.rehearsal(here, 15))
            cycle.when("snapshot_begin", 30)
            pids = [cycle.pid("app"), *(e["pid"] for e in here.events() if e["event"] == "process")]
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            cycle.wait(10)
            here.wait_until_free(5)
            assert scratch.is_frozen(mount)
            status, output, errors = here.app("recover", "--json")
            assert status == 0, errors + output
            assert json.loads(output) == {"thawed": [str(mount)], "released": [name], "left": []}
        finally:
            scratch.thaw(mount)
        writing.wait_for(5, 30)
        again = here.app("recover", "--json")
        status, report = here.run(grounded.rehearsal(here, 0))
    assert again[0] == 0 and name not in again[1], again
    assert (status, report["achieved"]) == (0, grounded.engine.level), report["because"]
    assert [each["achieved"] for each in here.reports()] == ["none", grounded.engine.level]
    assert not grounded.server.contents().broken
