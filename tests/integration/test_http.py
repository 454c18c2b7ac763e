"""The ``http`` mechanism against real servers: framing, bounds, connections that end, who the server is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import HostUnfit
from app.mechanisms import ConnectionLost, StepFailed, TimedOut, Waiter, http
from app.plan import Step
from tests import web
from tests.integration.stage import Stage, stage
from tests.web import Web

pytestmark = pytest.mark.integration

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

WHO = {"path": "/who", "pattern": '"id": "([^"]*)".*"started": ([0-9]+)'}


@pytest.fixture
def server() -> Iterator[Web]:
    with web.web() as made:
        yield made


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    with stage(app_command) as made:
        yield made


OPENED: list[http.HttpConnection] = []


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close(0)


def connect(server: Web | str, **options: Any) -> http.HttpConnection:
    url = server if isinstance(server, str) else server.url
    made = http.connect({"url": url, **options}, [], Waiter(), lambda pid: None, time.monotonic() + 5)
    OPENED.append(made)
    return made


def ask(connection: http.HttpConnection, seconds: float = 5, **do: Any) -> str:
    return connection.perform(Step("http", do), time.monotonic() + seconds)


# -- messages -------------------------------------------------------------------------------------------


def test_what_is_sent_arrives_on_one_connection(server: Web) -> None:
    server.says("/a?b=%20c", "done", status=202)
    connection = connect(server, headers={"X-Key": "one", "X-Other": "1"})
    text = 'a "body"\nwith ä\n'
    said = ask(connection, method="PUT", path="/a?b=%20c", body=text, headers={"X-Key": "two"}, status=[202])
    assert said == "done"
    (seen,) = server.seen
    assert seen[:2] == ("PUT", "/a?b=%20c")
    assert seen[3] == text
    assert (seen[2]["x-key"], seen[2]["x-other"]) == ("two", "1")
    assert seen[2]["host"] == server.url.removeprefix("http://")
    for _ in range(20):
        assert ask(connection, path="/a?b=%20c", status=[202]) == "done"
    assert len(server.links) == 1
    assert ask(connection, method="HEAD", path="/a?b=%20c", status=[202]) == ""
    assert ask(connection, path="/a?b=%20c", status=[202]) == "done"
    assert len(server.links) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n", "abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 200\r\ncontent-LENGTH:2 \r\n\r\nok", "ok"),
        (b"HTTP/1.0 200 OK\nContent-Length: 2\n\nok", "ok"),
    ],
)  # fmt: skip
def test_framings(server: Web, data: bytes, said: str) -> None:
    server.sends("/", data)
    connection = connect(server)
    assert ask(connection, path="/") == said
    assert ask(connection, path="/") == said


def test_a_body_may_end_with_its_connection(server: Web) -> None:
    def answer(handler: web.Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
        handler.close_connection = True

    server.answers["/"] = answer
    connection = connect(server)
    assert ask(connection, path="/") == "x" * 100_000
    assert ask(connection, path="/") == "x" * 100_000


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP/1.1"),
        (b"HTTP/2 200\r\n\r\n", "no HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "over 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "length is"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "encoded as gzip"),
        (CHUNKED + b"zz\r\n", "chunk"),
        (CHUNKED + b"ffffffff\r\n", "over 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * 70_000, "over 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: bbbbbbbbb\r\n" * 7000 + b"\r\n", "over 65536 bytes"),
    ],
)
def test_what_is_no_answer_is_refused(server: Web, data: bytes, why: str) -> None:
    server.sends("/", data)
    server.says("/good", "good")
    connection = connect(server)
    with pytest.raises(StepFailed, match=why):
        ask(connection, path="/")
    assert ask(connection, path="/good") == "good", "on a connection of its own"


def test_half_an_answer_ends_at_the_deadline_or_with_the_connection(server: Web) -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    server.sends("/", half)
    connection = connect(server)
    begun = time.monotonic()
    with pytest.raises(TimedOut, match="GET /: no answer"):
        ask(connection, 0.3, path="/")
    assert time.monotonic() - begun < 1

    def cut(handler: web.Handler) -> None:
        handler.wfile.write(half)
        handler.close_connection = True

    server.answers["/"] = cut
    with pytest.raises(ConnectionLost, match="without a whole answer"):
        ask(connection, path="/")


@pytest.mark.parametrize("path", ["/a b", "/a\r\nHost: x", "a", "/ä", ""])
def test_a_path_cannot_end_its_line(server: Web, path: str) -> None:
    with pytest.raises(StepFailed, match="is no path"):
        ask(connect(server), path=path)
    assert not server.seen


@pytest.mark.parametrize(
    ("name", "value"), [("A", "b\r\nC: d"), ("Content-Length", "0"), ("Connection", "x")]
)
def test_a_header_cannot_end_its_line_nor_the_message(server: Web, name: str, value: str) -> None:
    with pytest.raises(StepFailed, match="cannot be sent"):
        ask(connect(server), path="/", headers={name: value})
    assert not server.seen


# -- connections ----------------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path) -> None:
    with web.web(unix=tmp_path / "s") as server:
        server.says("/", "hello")
        assert ask(connect(server, socket=str(tmp_path / "s")), path="/") == "hello"
    with pytest.raises(StepFailed, match=r"refused|No such file"):
        connect(server, socket=str(tmp_path / "s"))


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(StepFailed, match=f"127.0.0.1:{port}: Connection refused"):
        http.connect(
            {"url": f"http://127.0.0.1:{port}"}, [], Waiter(), lambda pid: None, time.monotonic() + 5
        )


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(StepFailed, match=r"no\.such\.host\.invalid"):
        connect("http://no.such.host.invalid")


def test_an_idle_connection_that_the_server_closes_is_opened_again(server: Web) -> None:
    server.says("/who", '{"id": "a", "started": 17}')
    connection = connect(server, identity=WHO)
    assert connection.identity == "a 17"
    assert connection.lost() is None, "its end proves nothing: identity does"
    server.drop()
    connection.prove(time.monotonic() + 5)
    server.drop()
    server.says("/who", '{"id": "a", "started": 18}')
    with pytest.raises(ConnectionLost, match="'a 17' and is now 'a 18'"):
        connection.prove(time.monotonic() + 5)


def test_without_identity_only_the_connection_itself_is_proof(server: Web) -> None:
    server.says("/", "x")
    connection = connect(server)
    assert ask(connection, path="/") == "x"
    connection.prove(time.monotonic() + 5)
    assert connection.lost() is not None
    server.drop()
    time.sleep(0.05)
    with pytest.raises(ConnectionLost, match="without identity"):
        connection.prove(time.monotonic() + 5)
    assert ask(connection, path="/") == "x"
    with pytest.raises(ConnectionLost, match="without identity"):
        connection.prove(time.monotonic() + 5)


def test_the_version_is_its_first_number(server: Web) -> None:
    server.says("/", '{"version": {"number": "7.10.2"}}')
    assert connect(server, version={"path": "/", "pattern": r'"number": "(\d+)\.'}).version == 7
    with pytest.raises(StepFailed, match="does not match"):
        connect(server, version={"path": "/", "pattern": "nothing"})
    server.says("/text", "no number")
    with pytest.raises(StepFailed, match="no number"):
        connect(server, version={"path": "/text"})


# -- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    path = tmp_path_factory.mktemp("tls") / "pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", f"{path}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def test_tls_is_checked(certificate: Path) -> None:
    with web.web(certificate=certificate) as server:
        server.says("/", "x" * 300_000)
        connection = connect(server, ca=str(certificate))
        assert ask(connection, path="/") == "x" * 300_000
        assert ask(connection, method="POST", path="/", body="y" * 300_000) == "x" * 300_000
        connection.close(0)
        with pytest.raises(StepFailed, match="self-signed certificate"):
            connect(server)


def test_a_build_without_tls_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ssl", None)
    with pytest.raises(HostUnfit, match="has no TLS"):
        connect("https://127.0.0.1")


# -- a whole hold ---------------------------------------------------------------------------------------


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Any]:
    """Starts etcd on one folder, and again."""
    program = shutil.which("etcd")
    if program is None:
        pytest.skip("needs etcd")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [s.getsockname()[1] for s in (one, two)]
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> str:
        for old in started:
            old.kill()
            old.wait()
        argv = [program, "--data-dir", str(tmp_path / "etcd"), "--listen-client-urls", client]
        argv += ["--advertise-client-urls", client, "--listen-peer-urls", peer, "--log-level", "error"]
        argv += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        environ = {**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64"}
        started.append(subprocess.Popen(argv, stderr=subprocess.DEVNULL, env=environ))
        give_up = time.monotonic() + 20
        while True:
            try:
                options = {
                    "url": client,
                    "version": {"path": "/version", "pattern": '"etcdserver":"([0-9]+)'},
                }
                http.connect(options, [], Waiter(), lambda pid: None, time.monotonic() + 5).close(0)
                return client
            except StepFailed:
                assert time.monotonic() < give_up
                time.sleep(0.05)

    yield start
    for process in started:
        process.kill()
        process.wait()


POLICY = """
name = "keys"
[http]
url = "{url}"
[http.identity]
path = "/metrics"
pattern = '^(process_start_time_seconds .*)$'
[http.version]
path = "/version"
pattern = '"etcdserver":"([0-9]+)'
[[quiesce]]
mechanism = "http"
method = "POST"
path = "/v3/kv/put"
body = '{{{{"key": "aGVsZA==", "value": "eWVz"}}}}'
expect = '"revision":"(\\d+)"'
save = "revision"
[[verify]]
mechanism = "http"
method = "POST"
path = "/v3/kv/range"
body = '{{{{"key": "aGVsZA=="}}}}'
expect = '"mod_revision":"{{revision:regex}}".*"value":"eWVz"'
proof = true
[[release]]
mechanism = "http"
method = "POST"
path = "/v3/kv/deleterange"
body = '{{{{"key": "aGVsZA=="}}}}'
[[recover]]
mechanism = "http"
method = "POST"
path = "/v3/kv/deleterange"
body = '{{{{"key": "aGVsZA=="}}}}'
[timing]
quiesce = 10
retries = 0
hold = 20
release = 10
[freeze]
enabled = false
[snapshot]
provider = "none"
seconds = {seconds}
"""


def _held(url: str) -> bool:
    return "eWVz" in ask(connect(url), method="POST", path="/v3/kv/range", body='{"key": "aGVsZA=="}')


def test_a_real_etcd_is_marked_and_let_go(here: Stage, etcd: Any) -> None:
    """A key stands for what a server of one's own would be told to do."""
    url = etcd()
    cycle = here.start("run", "--json", here.policy(POLICY.format(url=url, seconds=0.5)))
    cycle.when("snapshot_begin")
    assert _held(url)
    assert cycle.wait() == 0, cycle.output + cycle.errors
    report = json.loads(cycle.output)
    (keys,) = report["applications"]
    assert (keys["held"], keys["server_version"]) == (True, 3)
    assert keys["sessions"]["http"].startswith("process_start_time_seconds")
    assert not _held(url)


@pytest.mark.parametrize("who", ["keeper", "holder"])
def test_a_kill_lets_it_go_on_a_new_connection(here: Stage, etcd: Any, who: str) -> None:
    url = etcd()
    cycle = here.start("run", "--json", here.policy(POLICY.format(url=url, seconds=5)))
    victim = cycle.pid(who)
    cycle.when("snapshot_begin")
    os.kill(victim, signal.SIGKILL)
    struck = time.monotonic()
    while _held(url):
        assert time.monotonic() - struck < 2
    cycle.wait(15)
    assert all(report["achieved"] != "application" for report in here.reports())


def test_a_server_that_was_started_again_is_another(here: Stage, etcd: Any) -> None:
    url = etcd()
    cycle = here.start("run", "--json", here.policy(POLICY.format(url=url, seconds=3)))
    cycle.when("snapshot_begin")
    time.sleep(1)  # its start time is in seconds
    assert etcd() == url
    assert _held(url), "all its data is there: only its start time tells"
    assert cycle.wait() == 1
    assert "the server was" in json.loads(cycle.output)["applications"][0]["because"][0]
