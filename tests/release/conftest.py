"""The release as build/release.sh leaves it, and bare systems to run it in."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SUITES = ("bullseye", "bookworm", "trixie", "sid")
"""Debian 11, 12, 13 and what comes next."""


@pytest.fixture(scope="session")
def release() -> Path:
    """The folder with the release: STILLFRAME_RELEASE, or dist/release."""
    folder = Path(os.environ.get("STILLFRAME_RELEASE", ROOT / "dist/release"))
    if not (folder / "app").is_file():
        pytest.skip(f"no release in {folder}: build/release.sh makes it")
    return folder


@pytest.fixture(scope="session")
def app(release: Path) -> Path:
    """The one file."""
    return release / "app"


class Bare:
    """A root folder without Python. Runs programs in it with /proc mounted, in a mount namespace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, source: Path, inside: str = "/usr/local/bin/app") -> str:
        """Copy a file in; its path inside."""
        target = self.folder / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        return inside

    def run(self, *command: str, prepare: str = ":", **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program inside after the shell commands ``prepare``, which see the folder as $root."""
        script = 'mkdir -p "$root/proc" && mount -t proc proc "$root/proc" && ' + prepare
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", f'{script} && exec chroot "$root" "$@"', "sh", *command],
            env={
                "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "root": str(self.folder),
                "HOME": "/root",
                **more,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def files(self, folders: Sequence[str] = ("tmp", "run", "dev/shm", "var/tmp")) -> set[str]:
        """What lies where programs leave things."""
        return {str(p.relative_to(self.folder)) for f in folders for p in (self.folder / f).rglob("*")}


def _unpacked(suite: str, folder: Path) -> Bare:
    """A fresh copy of Debian's smallest system, made once by debootstrap and kept as an archive."""
    archive = ROOT / f".build/chroots/{suite}.tar"
    if not archive.is_file():
        tool = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if tool is None:
            pytest.skip("needs debootstrap")
        made = folder / "made"
        mirror = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []
        done = subprocess.run(
            [tool, "--variant=minbase", "--arch=amd64", suite, str(made), *mirror],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"debootstrap {suite} failed: {(done.stdout + done.stderr)[-300:]}")
        archive.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(made / "var/cache/apt", ignore_errors=True)
        shutil.rmtree(made / "var/lib/apt/lists", ignore_errors=True)
        half = archive.with_suffix(".half")
        with tarfile.open(half, "w") as tar:
            tar.add(made, ".")
        half.rename(archive)
        return Bare(made)
    bare = folder / "bare"
    bare.mkdir()
    subprocess.run(["tar", "--extract", "--file", str(archive), "--directory", str(bare)], check=True)
    return Bare(bare)


@pytest.fixture
def bare_debian(as_root: None, tmp_path: Path) -> Iterator[Callable[[str], Bare]]:
    """``bare_debian("bullseye")``: a system of its own, without Python."""

    def make(suite: str) -> Bare:
        bare = _unpacked(suite, tmp_path)
        for name in ("python3", "perl5"):
            assert not (bare.folder / "usr/bin" / name).exists()
        return bare

    yield make
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def loader_only(as_root: None, tmp_path: Path) -> Iterator[Bare]:
    """A folder with busybox, and of libc only the files that the release asks the loader for."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox")
    source = _unpacked("bullseye", tmp_path).folder
    bare = Bare(tmp_path / "least")
    libraries = ["ld-linux-x86-64.so.2", *(f"lib{n}.so.{v}" for n, v in (("c", 6), ("m", 6), ("dl", 2)))]
    for name in [*libraries, "libpthread.so.0", "libutil.so.1"]:
        bare.put(source / "lib/x86_64-linux-gnu" / name, f"/lib/x86_64-linux-gnu/{name}")
    (bare.folder / "lib64").symlink_to("lib/x86_64-linux-gnu")
    bare.put(Path(busybox), "/bin/busybox")
    for name in ("tmp", "etc", "srv"):
        (bare.folder / name).mkdir()
    yield bare
    shutil.rmtree(tmp_path, ignore_errors=True)
