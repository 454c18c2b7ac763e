"""A long query in MySQL and MariaDB: nobody else waits for us longer than the policy's lock timeout.

Third clients read and write, all the time, the very table that the long query uses; how long each of their
statements took is what counts.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from tests.integration.stage import Event, Stage
from tests.servers import sql
from tests.servers.conftest import full_form, of
from tests.servers.engines import mariadb, mysql
from tests.servers.ground import Ground
from tests.servers.mysqls import CLIENT, CUSTOMER, DATABASE, MySQLServer

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

STAGES, LOCK = of(mariadb.STAGES), of(mariadb.LOCK)
INSTANCE, MYSQL_LOCK = (of(engine) for engine in mysql.ENGINES)

LONG = 7
"""Seconds that the long query takes."""

LOCK_TIMEOUT = 3
"""Seconds: the policies' default."""

SLACK = 1.2
"""Seconds: the hold itself (0.2), and a machine that is busy."""

READ = f"SELECT SLEEP({LONG}) FROM slow WHERE id = 1"
WRITE = f"UPDATE slow SET v = v + SLEEP({LONG}) WHERE id = 1"
WRITE_MYISAM = f"UPDATE slow_myisam SET v = v + SLEEP({LONG}) WHERE id = 1"

OTHERS = (
    "SELECT COUNT(*) FROM slow",
    "UPDATE slow SET v = v + 1 WHERE id = 2",
    "INSERT INTO other VALUES (NULL)",
)


@dataclass(slots=True)
class Client:
    """A third client, which does one statement over and over: when each began and ended."""

    statement: str
    times: list[tuple[float, float]] = field(default_factory=list)

    def longest(self, since: float, until: float) -> float:
        """Seconds: the longest statement of which any part lies between."""
        return max((b - a for a, b in self.times if b > since and a < until), default=0.0)


@contextlib.contextmanager
def third_clients(server: MySQLServer, statements: Sequence[str] = OTHERS) -> Iterator[list[Client]]:
    """Clients that work as long as the context lasts; all of their statements have ended after it."""
    clients = [Client(statement) for statement in statements]
    stop = threading.Event()

    def work(client: Client) -> None:
        argv = [
            server.client,
            *CLIENT,
            "--unbuffered",
            f"--socket={server.socket}",
            f"--user={CUSTOMER}",
            DATABASE,
        ]
        with contextlib.closing(sql.Client(argv)) as typed:
            while not stop.is_set():
                begun = time.monotonic()
                typed.type(f"{client.statement};\nSELECT 'done';\n")
                while typed.line() != "done":
                    pass
                client.times.append((begun, time.monotonic()))
                time.sleep(0.02)

    threads = [threading.Thread(target=work, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


@contextlib.contextmanager
def long_query(server: MySQLServer, statement: str) -> Iterator[subprocess.Popen[str]]:
    """A statement that has been running for more than a second."""
    argv = [server.client, *CLIENT, f"--socket={server.socket}", f"--user={CUSTOMER}", DATABASE]
    process = subprocess.Popen(
        [*argv, f"--execute={statement}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        time.sleep(2.2)
        assert process.poll() is None
        yield process
    finally:
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def server_of(grounded: Ground) -> MySQLServer:
    """The server, with the tables of these tests."""
    server = grounded.server
    assert isinstance(server, MySQLServer)
    server.query(
        f"USE {DATABASE}; DROP TABLE IF EXISTS slow, slow_myisam, other;"
        "CREATE TABLE slow (id INT PRIMARY KEY, v BIGINT) ENGINE=InnoDB;"
        "INSERT INTO slow VALUES (1, 0), (2, 0);"
        "CREATE TABLE other (id INT AUTO_INCREMENT PRIMARY KEY) ENGINE=InnoDB"
    )
    return server


def ended(events: Sequence[Event]) -> float:
    """When our asking for locks ended, and whatever it led to."""
    return float(events[-1]["t"])


def longest(clients: Sequence[Client], since: float, until: float) -> dict[str, float]:
    """Seconds, by statement."""
    found = {client.statement: round(client.longest(since, until), 2) for client in clients}
    print(found)
    assert all(client.times for client in clients)
    return found


@pytest.mark.parametrize("statement", [READ, WRITE], ids=["read", "write"])
@pytest.mark.parametrize("grounded", [STAGES, INSTANCE], indirect=True)
def test_default_policy(grounded: Ground, here: Stage, statement: str) -> None:
    """The hold comes at once, and nobody waits for more than the hold."""
    server = server_of(grounded)
    with third_clients(server) as clients, long_query(server, statement) as query:
        begun = time.monotonic()
        status, report = here.run(grounded.rehearsal(here, 0.2, freeze=False))
        took = time.monotonic() - begun
        assert query.poll() is None, "it was not long enough"
    assert (status, report["achieved"]) == (0, "application"), report
    assert took < LOCK_TIMEOUT
    assert max(longest(clients, begun, ended(here.events())).values()) < SLACK


@full_form
@pytest.mark.parametrize("grounded", [STAGES], indirect=True)
def test_stages_behind_a_long_write_to_myisam(grounded: Ground, here: Stage) -> None:
    """The one thing that stages wait for: given up after the lock timeout, and the report says why."""
    server = server_of(grounded)
    server.query(
        f"USE {DATABASE}; CREATE TABLE slow_myisam (id INT PRIMARY KEY, v BIGINT) ENGINE=MyISAM;"
        "INSERT INTO slow_myisam VALUES (1, 0)"
    )
    with third_clients(server) as clients, long_query(server, WRITE_MYISAM) as query:
        begun = time.monotonic()
        status, report = here.run(grounded.rehearsal(here, 0.2, freeze=False))
        assert query.poll() is None, "it was not long enough"
        waited = longest(clients, begun, ended(here.events()))
    server.query(f"DROP TABLE {DATABASE}.slow_myisam")
    assert (status, report["achieved"]) == (1, "crash"), report
    assert "Lock wait timeout exceeded" in "; ".join(report["because"])
    assert max(waited.values()) < LOCK_TIMEOUT + SLACK


@pytest.mark.parametrize("statement", [READ, pytest.param(WRITE, marks=full_form)], ids=["read", "write"])
@pytest.mark.parametrize("grounded", [of(mariadb.LOCK, only_full=True), MYSQL_LOCK], indirect=True)
def test_read_lock_waits_for_the_query(grounded: Ground, here: Stage, statement: str) -> None:
    """Until the query has ended nothing is asked for; then the lock comes at once."""
    server = server_of(grounded)
    with third_clients(server) as clients, long_query(server, statement):
        begun = time.monotonic()
        status, report = here.run(grounded.rehearsal(here, 0.2, freeze=False))
        took = time.monotonic() - begun
    assert (status, report["achieved"]) == (0, "application"), report
    assert LONG - 2.5 < took < LONG + 3
    assert max(longest(clients, begun, ended(here.events())).values()) < SLACK


@full_form
@pytest.mark.parametrize("grounded", [LOCK, MYSQL_LOCK], indirect=True)
def test_read_lock_gives_up_at_once(grounded: Ground, here: Stage) -> None:
    server = server_of(grounded)
    with third_clients(server) as clients, long_query(server, READ):
        begun = time.monotonic()
        status, report = here.run(grounded.rehearsal(here, 0.2, freeze=False, long_queries="give-up"))
        took = time.monotonic() - begun
    assert (status, report["achieved"]) == (1, "crash"), report
    assert "answered '1', which does not match" in "; ".join(report["because"])
    assert took < LOCK_TIMEOUT
    assert max(longest(clients, begun, ended(here.events())).values()) < SLACK


@pytest.mark.parametrize("grounded", [of(mariadb.LOCK, only_full=True), MYSQL_LOCK], indirect=True)
def test_read_lock_kills_long_queries(grounded: Ground, here: Stage) -> None:
    """Two of them, and nothing else: their connections live on, and so do those of the third clients."""
    server = server_of(grounded)
    with (
        third_clients(server) as clients,
        long_query(server, READ) as first,
        long_query(server, WRITE) as second,
    ):
        begun = time.monotonic()
        status, report = here.run(grounded.rehearsal(here, 0.2, freeze=False, long_queries="kill"))
        took = time.monotonic() - begun
        said = [query.stdout.read() for query in (first, second) if query.stdout]
    print(said, report["applications"][0]["saved"])
    # A SLEEP that is killed may also answer 1.
    assert all("1317" in each or each.strip() == "1" for each in said), said
    assert (status, report["achieved"]) == (0, "application"), report
    assert took < LOCK_TIMEOUT
    saved = report["applications"][0]["saved"]
    killed = [saved.get(f"long_query_{number}") for number in (1, 2, 3, 4)]
    assert killed[0] and killed[1] and killed[0] != killed[1], "each once, though it is listed while it ends"
    assert killed[2:] == ["", None]
    assert max(longest(clients, begun, ended(here.events())).values()) < SLACK


@full_form
@pytest.mark.parametrize("grounded", [MYSQL_LOCK], indirect=True)
def test_why_long_queries_are_looked_at(grounded: Ground, here: Stage) -> None:
    """Without the look MySQL makes readers of the table wait for the query, long after we gave up."""
    server = server_of(grounded)
    with third_clients(server) as clients, long_query(server, READ.replace(str(LONG), "10")):
        begun = time.monotonic()
        blind = grounded.rehearsal(here, 0.2, freeze=False, long_query_seconds=86400)
        blind.write_text(blind.read_text().replace("quiesce = 20", "quiesce = 4"))
        status, _ = here.run(blind)
    assert status == 1
    assert longest(clients, begun, begun + 10)[OTHERS[0]] > LOCK_TIMEOUT + SLACK
