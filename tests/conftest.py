"""What every kind of test may ask for. A skip names what is missing, and is shown."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import hypothesis
import pytest

from tests import postgres, scratch

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("stillframe", deadline=None, print_blob=True)
hypothesis.settings.load_profile("stillframe")


FULL = os.environ.get("STILLFRAME_TEST") == "full"
"""Whether every case of every table is asked for (make test-all)."""

ONE_IN = {
    "integration/secrets/test_mariadb.py": 2,
    "integration/secrets/test_places.py": 2,
    "integration/secrets/test_postgresql.py": 2,
    "integration/secrets/test_reading.py": 2,
    "integration/secrets/test_redis.py": 2,
    "integration/test_cgroup.py": 3,
    "integration/test_cycle_broken_server.py": 3,
    "integration/test_cycle_outliving.py": 3,
    "integration/test_cycle_scripts_killed.py": 3,
    "integration/test_http.py": 2,
    "integration/test_kill.py": 4,
    "integration/test_rehearse.py": 3,
    "integration/test_service.py": 2,
    "integration/test_starved.py": 5,
    "servers/test_blows.py": 2,
    "servers/test_cycles.py": 2,
    "servers/test_mysql_replica.py": 3,
    "servers/test_mysqls_long.py": 3,
    "servers/test_mysqls_tables.py": 4,
    "standins/test_policies.py": 4,
}
"""Tests of many cases alike, each with real seconds in it: of so many one is run, the same ones always."""


def is_sampled_out(item: pytest.Item) -> bool:
    """Whether a case is left to the full form. By its name, so that a new case moves no other."""
    file = item.path.relative_to(ROOT / "tests").as_posix()
    return zlib.crc32(item.name.encode()) % ONE_IN.get(file, 1) != 0


def pytest_configure() -> None:
    """Let SIGTERM unwind like Ctrl-C: what is frozen must be thawed on the way out."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    # Ignored under nohup or as a job of a shell, which what the tests start would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why."""
    for item in items:
        if not FULL and len(items) > 200 and is_sampled_out(item):
            item.add_marker(pytest.mark.skip(reason="of the full form only: make test-all"))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        vm = item.get_closest_marker("vm")
        if vm and vm.kwargs.get("form") == "full" and os.environ.get("STILLFRAME_TEST_VM") != "full":
            item.add_marker(pytest.mark.skip(reason="of the full form only: make test-vm"))


@pytest.fixture
def as_root() -> None:
    """Skips the test without root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def scratch_filesystem(as_root: None) -> Iterator[Callable[..., scratch.Volume]]:
    """Makes scratch filesystems: ``scratch_filesystem("ext4", megabytes=512)``, any number."""
    with ExitStack() as stack:

        def make(kind: str, megabytes: int = 512) -> scratch.Volume:
            if shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
                pytest.skip(f"needs mkfs.{kind}")
            return stack.enter_context(scratch.filesystem(kind, megabytes))

        yield make


@pytest.fixture
def scratch_ext4(scratch_filesystem: Callable[..., scratch.Volume]) -> scratch.Volume:
    """An ext4 filesystem of its own."""
    return scratch_filesystem("ext4")


@pytest.fixture
def scratch_xfs(scratch_filesystem: Callable[..., scratch.Volume]) -> scratch.Volume:
    """An xfs filesystem of its own."""
    return scratch_filesystem("xfs")


@pytest.fixture
def scratch_btrfs(scratch_filesystem: Callable[..., scratch.Volume]) -> scratch.Volume:
    """A btrfs filesystem of its own."""
    return scratch_filesystem("btrfs")


@pytest.fixture
def on_tmpfs() -> Iterator[Path]:
    """A private folder that no freeze of a disk can reach: for ledgers, journals and logs."""
    below = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="stillframe-", dir=below)
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def prefix(on_tmpfs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """STILLFRAME_PREFIX for this test and everything that it starts."""
    folder = on_tmpfs / "prefix"
    folder.mkdir()
    monkeypatch.setenv("STILLFRAME_PREFIX", str(folder))
    return folder


@pytest.fixture(scope="session")
def app_command() -> list[str]:
    """The ``app`` that is tested: the tree's, or the binary that STILLFRAME_TEST_BINARY names."""
    binary = os.environ.get("STILLFRAME_TEST_BINARY")
    command = Path(binary) if binary else Path(sys.executable).with_name("app")
    assert command.is_file(), f"there is no {command}: run build/bootstrap.sh"
    return [str(command.absolute())]


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_app(app_command: list[str], prefix: Path) -> Run:
    """Runs ``app`` with arguments, under the test's own prefix; nothing on stdin, a minute at most."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        settings: dict[str, object] = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60}
        settings.update(options)
        argv = [*app_command, *map(str, arguments)]
        done: subprocess.CompletedProcess[str] = subprocess.run(argv, text=True, **settings)  # type: ignore[call-overload] # options of subprocess.run, passed on
        return done

    return run


@pytest.fixture
def make_postgres() -> Iterator[Callable[[Path], postgres.Postgres]]:
    """Starts PostgreSQL servers on folders of the test's choice: ``make_postgres(volume.mount / "pg")``."""
    if postgres.programs() is None:
        pytest.skip("needs a PostgreSQL server")
    with ExitStack() as stack:
        yield lambda data: stack.enter_context(postgres.server(data))
