"""An operator whose server demands authentication uses each shipped policy, and the secret shows nowhere."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.secrets.hiding import check_hidden, secret_file, seen_by_everybody, written
from tests.integration.secrets.login import Login, Wanted
from tests.integration.secrets.logins import logins
from tests.integration.secrets.watch import Watch
from tests.integration.stage import Stage
from tests.servers.conftest import FULL

pytestmark = [pytest.mark.integration, pytest.mark.root]

REST = """
[timing]
quiesce = 20
hold = 30
release = 15
[freeze]
enabled = false
[snapshot]
provider = "none"
seconds = {seconds}
"""

AT_ONCE = 8.0
"""Seconds in which a wrong password is told: three attempts, and a second between two of them."""


@pytest.fixture
def login(request: pytest.FixtureRequest) -> Login:
    found: Login = request.param
    if missing := found.missing():
        pytest.skip(f"{found}: {missing}")
    return found


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder for what the server keeps."""
    with tempfile.TemporaryDirectory(prefix="sf-login-", dir="/dev/shm") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def each(*, ours: bool) -> pytest.MarkDecorator:
    """Every login that this form of the tests has, or those whose secret we read.

    The short form leaves the wrong passwords of sessions to the tests of Redis and PostgreSQL.
    """
    found = logins() if FULL else [one for one in logins() if one.short and not (ours and one.session)]
    chosen = [one for one in found if one.wrong or not ours]
    return pytest.mark.parametrize("login", chosen, ids=repr, indirect=True)


def policy(here: Stage, wanted: Wanted, file: Path | None, seconds: float) -> Path:
    """What an operator writes; ``file``: where the secret is, if it is ours to read."""
    secret = f'[secrets.password]\nfile = "{file}"\n' if file else ""
    return here.policy(f'name = "held"\n{wanted.policy}{secret}{REST.format(seconds=seconds)}')


@each(ours=False)
def test_it_is_held_and_the_secret_shows_nowhere(here: Stage, outside: Path, login: Login) -> None:
    canary = login.canary()
    with login.wanting(canary, outside) as wanted:
        canary = wanted.secret or canary
        tail = canary[-22:].encode()
        file = secret_file(here, canary) if login.wrong else None
        cycle = here.start("run", "--json", policy(here, wanted, file, 0.3))
        with Watch(cycle.pid("keeper")) as watch:
            cycle.when("snapshot_begin", 40)
            check_hidden(here, cycle, canary, held=bool(login.wrong), session=login.session)
            assert cycle.wait() == 0, cycle.output + cycle.errors
        check_hidden(here, cycle, canary, held=False)
        assert not [one for one in watch.seen if tail in one]
        assert any(login.client.encode() in one for one in watch.seen), "the watch sees the client"
        assert [path for log in wanted.logs for path in written(tail, log)] == []
    (report,) = here.reports()
    (held,) = report["applications"]
    assert (held["held"], held["can_give"]) == (True, login.level), report


@each(ours=True)
def test_a_wrong_secret_is_told_at_once(here: Stage, outside: Path, login: Login) -> None:
    """After all attempts, of which there are three by default, and without a word of the secret."""
    with login.wanting(login.canary(), outside) as wanted:
        wrong = login.canary()
        began = time.monotonic()
        cycle = here.start("run", "--json", policy(here, wanted, secret_file(here, wrong), 0))
        assert cycle.wait() == 1, cycle.output + cycle.errors
        assert time.monotonic() - began < AT_ONCE
        check_hidden(here, cycle, wrong, held=False)
        assert seen_by_everybody(wrong[-22:].encode()) == []
    (report,) = here.reports()
    (held,) = report["applications"]
    assert re.search(login.wrong, held["because"][-1]), held
    assert not held["held"]
