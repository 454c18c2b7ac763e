"""Servers that this machine's distribution has not, from another release of Debian, in a folder.

The folder is a smallest system in which apt installs the packages; it is made once and kept. Nothing in
it is started by itself: a program of it is run by its own loader and libraries, on this system's files,
so that a server needs no chroot and no mounts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.servers.kept import ROOT, kept

ARCHIVES = ROOT / ".build/chroots"
"""Smallest systems as debootstrap makes them, shared with the tests of the release."""

_APT = [
    "apt-get",
    "-o=APT::Install-Recommends=false",
    # The clocks of test machines may be ahead of the last signed list.
    "-o=Acquire::Check-Valid-Until=false",
    "-o=APT::Sandbox::User=root",
    "--quiet",
    "--yes",
]


def system(suite: str, *packages: str) -> Path | str:
    """The root folder of a system with these packages, or why there is none. Needs root."""
    if os.geteuid() != 0:
        return f"needs root, to make a Debian {suite} with {', '.join(packages)}"
    name = f"{suite}-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:12]}"
    below = kept()
    with (below / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _made(below / name, suite, packages)


def program(root: Path, name: str) -> Path:
    """A script, in one folder for all, that becomes the program of that full path in the system."""
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "usr/lib/x86_64-linux-gnu/mysql"]
    script = root / "usr/local/bin" / Path(name).name
    loader = root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    path = ":".join(map(str, libraries))
    text = f'#!/bin/sh\nexec {loader} --argv0 {script.name} --library-path {path} {root}{name} "$@"\n'
    if not script.is_file() or script.read_text() != text:
        half = script.with_suffix(f".{os.getpid()}")
        half.write_text(text)
        half.chmod(0o755)
        half.rename(script)
    return script


def _made(folder: Path, suite: str, packages: tuple[str, ...]) -> Path | str:
    if (folder / "made").is_file():
        return folder
    if os.environ.get("STILLFRAME_TEST_SERVERS") != "full":
        return f"Debian {suite} is fetched for the full form only: make test-servers"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    if problem := _unpack(folder, suite):
        return problem
    for name in ("resolv.conf", "hosts"):
        if Path("/etc", name).is_file():
            shutil.copy(Path("/etc", name), folder / "etc" / name)
    for argv in ([*_APT, "update"], [*_APT, "install", *packages]):
        done = inside(folder, argv)
        if done.returncode:
            said = (done.stdout + done.stderr).strip()[-300:]
            return f"Debian {suite} with {', '.join(packages)} could not be had: {said}"
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(folder / waste, ignore_errors=True)
    (folder / "made").touch()
    return folder


def _unpack(folder: Path, suite: str) -> str:
    archive = ARCHIVES / f"{suite}.tar"
    if archive.is_file():
        subprocess.run(["tar", "--extract", f"--file={archive}", f"--directory={folder}"], check=True)
        return ""
    tool = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if tool is None:
        return "needs debootstrap"
    mirror = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []
    argv = [tool, "--variant=minbase", "--arch=amd64", suite, str(folder), *mirror]
    done = subprocess.run(argv, capture_output=True, text=True)
    return f"debootstrap {suite} failed: {(done.stdout + done.stderr)[-300:]}" if done.returncode else ""


def inside(folder: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program in the system itself, as root, for what its own paths are needed for."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(folder), *argv],
        env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
