"""A real systemd of our own: a user's instance, in control groups and a runtime folder that are its alone.

It would move whatever shares its control group, so it is started in groups of its own, in every
hierarchy there is, and not at all where that fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAM = next((p for p in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if Path(p).exists()), "")

_START = """
set -e
name=$1 runtime=$2
shift 2
for group in "$@"; do echo $$ >"$group/cgroup.procs"; done
while IFS=: read -r number kinds group; do
    case $group in /$name) ;; *) echo "still in $kinds:$group" >&2; exit 9 ;; esac
done </proc/self/cgroup
mount --make-rprivate /
# What systemd looks for to see whether the machine runs systemd.
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
export XDG_RUNTIME_DIR=$runtime HOME=$runtime XDG_CONFIG_HOME=$runtime/config SYSTEMD_LOG_TARGET=console
exec """


class Unavailable(Exception):
    """Why no systemd can be started here."""


@dataclass(frozen=True, slots=True)
class Systemd:
    """A running instance; ``runtime`` is its XDG_RUNTIME_DIR."""

    runtime: Path

    @property
    def environment(self) -> dict[str, str]:
        """What systemctl needs in order to find it."""
        return {"XDG_RUNTIME_DIR": str(self.runtime)}

    def ctl(self, *words: str, check: bool = True) -> str:
        """What ``systemctl --user`` says. Raises CalledProcessError."""
        done = subprocess.run(
            ["systemctl", "--user", "--no-pager", *words],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.ctl("show", f"--property={name}", "--value", unit)

    def write(self, units: Mapping[str, str]) -> None:
        """Make these units, by name, the only ones of ours; those that were are ended."""
        folder = self.runtime / "config/systemd/user"
        if old := sorted(path.name for path in folder.iterdir()):
            self.ctl("kill", "--signal=KILL", *[n for n in old if n.endswith(".service")], check=False)
            self.ctl("stop", *old, check=False)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in units.items():
            (folder / name).write_text(text)
        self.ctl("daemon-reload")
        self.ctl("reset-failed")


@contextlib.contextmanager
def systemd() -> Iterator[Systemd]:
    """An instance, ended with all that it started. Raises Unavailable."""
    if not PROGRAM or shutil.which("systemctl") is None:
        raise Unavailable("needs systemd")
    if os.geteuid() != 0:
        raise Unavailable("needs root")
    with contextlib.ExitStack() as stack:
        runtime = Path(tempfile.mkdtemp(prefix="stillframe-systemd-", dir="/dev/shm"))
        stack.callback(shutil.rmtree, runtime, ignore_errors=True)
        (runtime / "config/systemd/user").mkdir(parents=True)
        name = f"stillframe-{os.getpid()}-{runtime.name[-8:]}"
        groups = _make_groups(name)
        stack.callback(_remove_groups, groups)
        argv = ["unshare", "--mount", "sh", "-c", f"{_START} {PROGRAM} --user --unit=basic.target", "sh"]
        with (runtime / "log").open("wb") as log:
            process = subprocess.Popen(
                [*argv, name, str(runtime), *map(str, groups)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        made = Systemd(runtime)
        give_up = time.monotonic() + 20
        while made.ctl("is-active", "basic.target", check=False) != "active":
            if process.poll() is not None or time.monotonic() > give_up:
                raise Unavailable(f"systemd does not start: {(runtime / 'log').read_text()[-500:]}")
            time.sleep(0.05)
        yield made


def _make_groups(name: str) -> list[Path]:
    """A control group of that name in every hierarchy that is mounted."""
    made = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] in ("cgroup", "cgroup2"):
            top = Path(fields.split()[4])
            with contextlib.suppress(OSError):
                (top / name).mkdir()
                made.append(top / name)
                for share in ("cpuset.cpus", "cpuset.mems"):
                    if (top / share).exists():
                        (top / name / share).write_text((top / share).read_text())
    return made


def _remove_groups(groups: list[Path]) -> None:
    """Kill all that is left in them, and remove them with the groups below them."""
    give_up = time.monotonic() + 10
    left = [group for top in groups for group in (top, *top.rglob("*")) if group.is_dir()]
    while left and time.monotonic() < give_up:
        for group in sorted(left, key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                for pid in (group / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                group.rmdir()
        left = [group for group in left if group.exists()]
        time.sleep(0.02)
