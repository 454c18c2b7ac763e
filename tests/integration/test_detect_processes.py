"""What looks like a server or hides one: namespaces of a service's own, containers, made-up processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import containers
from tests.integration.stage import Stage, stage

pytestmark = [pytest.mark.integration, pytest.mark.root]

NOBODY = 65534


@pytest.fixture
def here(app_command: list[str]) -> Iterator[Stage]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to start what others start")
    with stage(app_command) as made:
        yield made


@contextlib.contextmanager
def started(argv: Sequence[str | Path], **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **how
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def found(here: Stage, *words: str | Path) -> dict[str, Any]:
    status, output, errors = here.app("detect", "--json", *words)
    assert status == 0, errors
    answer: dict[str, Any] = json.loads(output)
    return answer


def of_process(answer: dict[str, Any], pid: int) -> list[dict[str, Any]]:
    return [instance for instance in answer["found"] if instance["pid"] == pid]


def told_of(answer: dict[str, Any], pid: int) -> list[str]:
    return [sentence for sentence in answer["undecided"] if f"process {pid})" in sentence]


def await_file(path: Path) -> None:
    give_up = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < give_up, path
        time.sleep(0.01)


def redis(*more: str | Path) -> list[str | Path]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server")
    return [program, "--save", "", "--port", "0", *more]


def unshared(script: str, *options: str) -> list[str | Path]:
    return ["unshare", "--mount", *options, "sh", "-c", script]


def test_a_service_with_a_mount_namespace_is_no_container(here: Stage) -> None:
    """Debian's units of Redis and MariaDB have one (ProtectSystem=, PrivateTmp=)."""
    address = here.folder / "s"
    argv = redis("--unixsocket", address, "--dir", here.folder)
    with started(["unshare", "--mount", *argv]) as process:
        await_file(address)
        answer = found(here, "--out", here.folder / "out")
        (instance,) = of_process(answer, process.pid)
        assert (instance["policy"], instance["settings"]["connect"]) == ("redis", ["-s", str(address)])
        assert not any("PrivateTmp" in sentence for sentence in instance["unsure"])
        path = Path(instance["file"])
        more = '[freeze]\nenabled = false\n[snapshot]\nprovider = "none"\nseconds = 0\n'
        path.write_text(f"{path.read_text()}\n{more}")
        status, report = here.run(path)
        assert (status, report["achieved"]) == (0, "application"), report["because"]


def test_a_socket_that_only_its_server_sees_is_told(here: Stage) -> None:
    own = here.folder / "own"
    own.mkdir()
    mark = here.folder / "mark"
    words = " ".join(map(str, redis("--unixsocket", own / "s", "--dir", here.folder)))
    with started(unshared(f"mount -t tmpfs none {own} && touch {mark} && exec {words}")) as process:
        await_file(mark)
        await_file(Path(f"/proc/{process.pid}/root{own}/s"))
        (instance,) = of_process(found(here), process.pid)
        assert any("PrivateTmp" in sentence for sentence in instance["unsure"])


def test_a_port_in_a_network_of_its_own_is_told(here: Stage) -> None:
    argv = [*redis("--dir", here.folder)[:-4], "--dir", str(here.folder), "--port", "7391"]
    log = here.folder / "log"
    with started(["unshare", "--net", *argv, "--logfile", log]) as process:
        give_up = time.monotonic() + 10
        while "Ready to accept" not in (log.read_text() if log.exists() else ""):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        (instance,) = of_process(found(here), process.pid)
        assert "7391" in instance["settings"]["connect"]
        assert any("PrivateNetwork" in sentence for sentence in instance["unsure"])


def test_what_has_another_root_is_told_and_not_written(here: Stage) -> None:
    """A container is that, and some more."""
    root = here.folder / "root"
    for name in ("usr", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    words = " ".join(map(str, redis("--unixsocket", "/tmp/s", "--dir", "/tmp")))
    script = f"mount --bind /usr {root}/usr && mount -t tmpfs none {root}/tmp && exec chroot {root} {words}"
    with started(unshared(script)) as process:
        await_file(Path(f"/proc/{process.pid}/root/tmp/s"))
        answer = found(here)
        assert not of_process(answer, process.pid)
        (sentence,) = told_of(answer, process.pid)
        assert "runs in another root folder" in sentence


def test_what_runs_in_a_container_is_told_with_the_way_to_it(here: Stage) -> None:
    if missing := containers.missing():
        pytest.skip(f"needs {missing}")
    with containers.container("sf-detect", list(map(str, redis("--unixsocket", "/tmp/s")))) as container:
        until = time.monotonic() + 10
        while "PONG" not in container.run("sh", "-c", "redis-cli -s /tmp/s PING || true"):
            assert time.monotonic() < until
            time.sleep(0.05)
        told = [sentence for sentence in found(here)["undecided"] if "runs in libpod" in sentence]
        ways = [re.findall(r'"podman", "exec", "--interactive", "(\w+)"', sentence) for sentence in told]
        done = [
            subprocess.run([container.podman, "exec", way, "redis-cli", "-s", "/tmp/s", "PING"])
            for (way,) in ways
        ]
        assert 0 in [each.returncode for each in done], told


def made_up(
    here: Stage, name: str, argv: list[str], code: str, owner: int = NOBODY
) -> subprocess.Popen[bytes]:
    """A process of that user's, of a program of that name, with these arguments; what it does is ``code``.

    It is Python's interpreter in a copy, which takes the words behind ``-c`` for the script's.
    """
    folder = here.folder / "theirs"
    folder.mkdir(exist_ok=True)
    os.chown(folder, owner, owner)
    path = folder / name
    if not path.exists():
        shutil.copy(os.path.realpath("/usr/bin/python3"), path)
        os.chown(path, owner, owner)
    return subprocess.Popen(
        [argv[0], "-c", code, *argv[1:]],
        executable=path,
        user=owner,
        group=owner,
        extra_groups=[],
        cwd=folder,
        env={"PYTHONHOME": "/usr"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """Its number, once it has done what it does and waits; it is gone afterwards."""
    try:
        give_up = time.monotonic() + 20
        while "nanosleep" not in Path(f"/proc/{process.pid}/wchan").read_text():
            assert process.poll() is None and time.monotonic() < give_up, process.args
            time.sleep(0.02)
        yield process.pid
    finally:
        process.kill()
        process.wait()


MADE_UP = (
    ("postgres", ["postgres", "-D", '/tmp/a"b\n[session]\nargv = ["x"]']),
    ("mysqld", ["mysqld", '--socket=/tmp/"; touch /tmp/x; \\']),
    ("etcd", ["etcd", "--data-dir=/tmp/../etc", "--listen-client-urls=http://127.0.0.1:1 --x"]),
    ("mongod", ["mongod", "--port", "9" * 5000]),
    ("influxd", ["influxd", "-config", "/dev/zero"]),
    ("slapd", ["slapd", "-F", "/proc/self/root", "-h", "ldapi://%00 ldapi://x\ny"]),
    ("java", ["redis-server *:6379 " + "y" * 9000]),
    ("java", ["ora_pmon_X"]),
    ("java", ["hdbnameserver"]),
    ("java", ["java", "com.neo4j.server.EntryPoint"]),
)


def test_made_up_processes_that_listen_nowhere_make_no_policy(here: Stage) -> None:
    with contextlib.ExitStack() as stack:
        processes = [made_up(here, *each, "import time; time.sleep(600)") for each in MADE_UP]
        pids = [stack.enter_context(ended(process)) for process in processes]
        answer = found(here, "--out", here.folder / "out")
        assert not [instance for pid in pids for instance in of_process(answer, pid)]
        assert all(len(sentence) < 500 for sentence in answer["undecided"])


LISTEN = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[-1])
listener.listen()
time.sleep(600)
"""

NAMES = ('a "b" $(touch x) {host} #', "b\nb\n[session]\nargv = ['x']", "a//b")

FORGE = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
try:
    listener.bind(sys.argv[-1].replace("%", "/"))
except OSError:  # its folders are not there: in the abstract space there are none
    listener.bind("\\0" + sys.argv[-1].replace("%", "/"))
listener.listen()
time.sleep(600)
"""


def test_made_up_processes_that_listen_spoil_nothing(here: Stage) -> None:
    """One policy that cannot be made keeps no other from being written; a stranger's program is told."""
    with contextlib.ExitStack() as stack:
        folder = here.folder / "theirs"
        (folder / "a").mkdir(parents=True)
        (folder / "a").chmod(0o777)
        pids = [
            stack.enter_context(ended(made_up(here, "mariadbd", ["mariadbd", f"{folder}/{name}"], LISTEN)))
            for name in NAMES
        ]
        out = here.folder / "out"
        answer = found(here, "--out", out)
        quoted, broken, refused = (of_process(answer, pid) for pid in pids)
        assert "not root's alone (user nobody, mode" in quoted[0]["unsure"][0]
        written = tomllib.loads(Path(quoted[0]["file"]).read_text())
        assert written["settings"]["socket"] == f"{folder}/{NAMES[0]}"
        assert set(written) == {"version", "name", "extends", "settings"}
        assert broken[0]["settings"] == {}, "the kernel's table shows no more than its first line"
        assert not refused
        assert any("no policy can be made of it: settings.socket" in told for told in answer["undecided"])
    assert here.app("validate", *out.glob("*.toml"))[0] == 0


def test_a_socket_of_another_user_is_not_taken_for_a_servers_own(here: Stage) -> None:
    """A line break in a name makes a line of the kernel's table that says what its maker likes."""
    argv = redis("--unixsocket", here.folder / "s", "--dir", here.folder)
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(started(argv))
        await_file(here.folder / "s")
        links = [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
        table = Path("/proc/net/unix").read_text()
        inodes = [link[8:-1] for link in links if link.startswith("socket:[")]
        (inode,) = [inode for inode in inodes if f" {inode} {here.folder}/s\n" in table]
        (here.folder / "theirs").mkdir()
        os.chown(here.folder / "theirs", NOBODY, NOBODY)
        evil = f"{here.folder}/theirs/e"
        stack.enter_context(ended(made_up(here, "web", ["web", "e"], LISTEN)))
        forged = f"f\n0000000000000000: 00000002 00000000 00010000 0001 01 {inode} {evil}"
        stack.enter_context(ended(made_up(here, "web", ["web", forged.replace("/", "%")], FORGE)))
        assert f" {inode} {evil}\n" in Path("/proc/net/unix").read_text()
        (instance,) = of_process(found(here), process.pid)
        assert evil not in json.dumps(instance)


# --- where it is written ---------------------------------------------------------------------------------


@pytest.fixture
def server(here: Stage) -> Iterator[Path]:
    """Something that is found."""
    address = here.folder / "s"
    with started(redis("--unixsocket", address, "--dir", here.folder)):
        await_file(address)
        yield address


def test_where_others_can_write_root_writes_nothing(here: Stage, server: Path) -> None:
    for mode, owner in ((0o777, 0), (0o775, 0), (0o755, NOBODY)):
        out = here.folder / f"out-{mode:o}-{owner}"
        out.mkdir()
        out.chmod(mode)
        os.chown(out, owner, owner)
        status, _, errors = here.app("detect", "--out", out)
        assert status == 4
        assert "nothing was written" in errors
        assert not list(out.iterdir())


def test_a_full_disk_leaves_nothing_half_written(here: Stage, server: Path) -> None:
    out = here.folder / "out"
    done = subprocess.run(
        ["prlimit", "--fsize=100", *here.command, "detect", "--out", out], capture_output=True, text=True
    )
    assert done.returncode == 4
    assert f"{out}/" in done.stderr
    assert "nothing was written" in done.stderr
    assert not list(out.iterdir())
