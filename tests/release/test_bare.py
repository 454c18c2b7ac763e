"""The same file on bare systems: Debian 11 to sid without Python, and a folder with hardly a libc."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.release.conftest import SUITES, Bare

pytestmark = [pytest.mark.integration, pytest.mark.root, pytest.mark.slow]

POLICY = """\
version = 1
name = "orders"
extends = "sqlite"

[settings]
databases = ["/srv/orders.db"]

[freeze]
enabled = false

[snapshot]
provider = "none"
"""


def _prepare(bare: Bare, app: Path) -> None:
    bare.put(app)
    (bare.folder / "etc/orders.toml").write_text(POLICY)
    database = sqlite3.connect(bare.folder / "srv/orders.db")
    database.execute("PRAGMA journal_mode = wal")
    database.execute("CREATE TABLE orders (number)")
    database.execute("INSERT INTO orders VALUES (1)")
    database.commit()
    database.close()


def _whole_life(bare: Bare) -> None:
    left = bare.files()
    for command in (
        "app --version",
        "app schema",
        "app validate /etc/orders.toml",
        "app compile /etc/orders.toml --out /etc/azure",
        "app verify",
        "app run /etc/orders.toml",
        "/etc/azure/stillframe/pre.sh",
        "app status",
        "/etc/azure/stillframe/post.sh",
        "app report",
    ):
        done = bare.run(*command.split())
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        if command.startswith("app run"):
            assert "consistency level: application" in done.stdout
    mine = {name for name in bare.files() - left if not name.startswith("run/stillframe")}
    assert not mine


@pytest.mark.parametrize("suite", SUITES)
def test_debian_without_python(app: Path, bare_debian: Callable[[str], Bare], suite: str) -> None:
    bare = bare_debian(suite)
    _prepare(bare, app)
    _whole_life(bare)


def test_a_folder_with_hardly_a_libc(app: Path, loader_only: Bare) -> None:
    _prepare(loader_only, app)
    for arguments in (["--version"], ["validate", "/etc/orders.toml"], ["compile", "/etc/orders.toml"]):
        done = loader_only.run("/usr/local/bin/app", *arguments)
        assert done.returncode == 0, (arguments, done.stderr)


@pytest.mark.parametrize("suite", ["bullseye", "trixie"])
def test_the_deb(release: Path, bare_debian: Callable[[str], Bare], suite: str) -> None:
    bare = bare_debian(suite)
    before = {p.relative_to(bare.folder) for p in bare.folder.rglob("*")}
    (package,) = release.glob("*.deb")
    inside = bare.put(package, "/package.deb")
    assert bare.run("dpkg", "--install", inside).returncode == 0
    assert (bare.folder / "usr/local/bin/app").read_bytes() == (release / "app").read_bytes()
    assert bare.run("app", "--version").stdout.startswith("app (stillframe)")
    assert bare.run("dpkg", "--verify", "stillframe").stdout == ""
    done = bare.run("dpkg", "--purge", "stillframe")
    assert done.returncode == 0, done.stderr
    (bare.folder / "package.deb").unlink()
    after = {p.relative_to(bare.folder) for p in bare.folder.rglob("*")}
    ours = {
        str(path) for path in after - before if "var/lib/dpkg" not in str(path) and "proc" not in str(path)
    }
    assert {name for name in ours if not name.startswith("var/log")} == set()


def test_the_rpm_installs_the_same_file(release: Path, as_root: None, tmp_path: Path) -> None:
    if shutil.which("rpm") is None:
        pytest.skip("needs rpm")
    (package,) = release.glob("*.rpm")
    root = tmp_path / "root"
    root.mkdir()

    def rpm(*arguments: str | Path) -> str:
        # A system of another kind: its libc is not in this database.
        command = ["rpm", "--root", root, *arguments]
        return subprocess.run(
            [str(a) for a in command], check=True, capture_output=True, text=True, timeout=60
        ).stdout

    rpm("--initdb")
    rpm("--install", "--nodeps", "--noscripts", package)
    assert (root / "usr/local/bin/app").read_bytes() == (release / "app").read_bytes()
    assert "usr/local/bin/app" in rpm("--query", "--list", "stillframe")
    rpm("--erase", "--nodeps", "stillframe")
    assert not [p for p in root.rglob("*") if p.is_file() and "rpm" not in str(p.relative_to(root))]
