"""Starting the programs of a recipe: as the right user, with the VM's environment, in their own session.

Nothing of our own environment reaches them: a frozen binary's ``LD_LIBRARY_PATH`` or a caller's
variables would otherwise decide what a database client does.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pwd
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.errors import HostUnfit
from app.host import trust
from app.host.precedence import as_given, hasten

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Account:
    """An OS user, looked up before the hold."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def account(name: str) -> Account:
    """The user of that name, ours if it is empty.

    Raises HostUnfit if there is none, or if we are not root and it is not ourselves.
    """
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise HostUnfit(f"there is no user {name or os.geteuid()!r} on this machine") from None
    if os.geteuid() != 0 and entry.pw_uid != os.geteuid():
        raise HostUnfit(
            f"only root can run programs as {entry.pw_name!r}",
            "run as root, or as that user, or name yourself in the policy",
        )
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(groups), entry.pw_dir)


def account_of(name: str, path: str) -> Account:
    """The user of that name, or the owner of ``path`` if it is empty. Raises HostUnfit."""
    if name:
        return account(name)
    owner = os.stat(path).st_uid
    try:
        return account(pwd.getpwuid(owner).pw_name)
    except KeyError:
        raise HostUnfit(f"{path}: belongs to user id {owner}, which has no name on this machine") from None


class Program:
    """A program of a recipe, found and checked, ready to be started.

    Raises HostUnfit if there is no such user or program, or if root would run a program that
    somebody else could have written.
    """

    def __init__(
        self, argv: tuple[str, ...], user: str, environment: Mapping[str, str], path: str = SEARCH_PATH
    ) -> None:
        self.argv = argv
        self.account = account(user)
        self._file = _find(argv[0], path)
        self._descriptor = trust.open_program(self._file) if self.account.uid == 0 else None
        self._environment = {
            "PATH": path,
            "LANG": "C.UTF-8",
            "HOME": self.account.home,
            "USER": self.account.name,
            "LOGNAME": self.account.name,
            **environment,
        }

    def with_argv(self, argv: tuple[str, ...]) -> Program:
        """The same program, to be started with other arguments."""
        other = copy.copy(self)
        other.argv = argv
        return other

    def placed(self, argv: tuple[str, ...], place: Callable[[str], str]) -> Program:
        """The same program with other arguments, and ``place`` applied to them and to its environment."""
        other = self.with_argv(tuple(map(place, argv)))
        other._environment = {name: place(value) for name, value in self._environment.items()}
        return other

    def close(self) -> None:
        """Close the descriptor of the program; it cannot be started any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._file = ""

    def start(
        self, *, merge_errors: bool = False, output: int = subprocess.PIPE, inherit: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Start it in a session of its own, in ``/``, stdin being a pipe, and stdout too or ``output``.

        ``inherit``: descriptors that it keeps, under the same numbers. Raises HostUnfit where the kernel
        refuses.
        """
        root = os.geteuid() == 0
        executable = self._file if self._descriptor is None else f"/proc/self/fd/{self._descriptor}"
        try:
            with as_given():
                return subprocess.Popen(
                    self.argv,
                    executable=executable,
                    pass_fds=[*inherit, *([] if self._descriptor is None else [self._descriptor])],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT if merge_errors else subprocess.DEVNULL,
                    bufsize=0,
                    cwd="/",
                    env=self._environment,
                    start_new_session=True,
                    umask=0o077,
                    user=self.account.uid if root else None,
                    group=self.account.gid if root else None,
                    extra_groups=self.account.groups if root else None,
                )
        except OSError as error:
            raise HostUnfit(f"{self._file}: cannot be started: {error.strerror}") from error


def end_group(process: subprocess.Popen[bytes], first: signal.Signals, grace: float) -> None:
    """End a program and all that it started in its session: ``first``, then SIGKILL after ``grace`` s."""
    if process.poll() is None:
        _signal_group(process.pid, first)
        end = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
    if process.poll() is None:
        hasten(process.pid)
    _signal_group(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    # It may be blocked in the kernel, on a frozen filesystem for instance: it dies when that is thawed.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)


def wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a program has ended, waiting ``seconds`` at most."""
    end = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() >= end:
            return False
        time.sleep(0.005)
    return True


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _find(name: str, path: str) -> str:
    if "/" in name:
        if not os.path.isabs(name):
            raise HostUnfit(f"{name!r}: a program is named by its full path, or by its name alone")
        candidates = [name]
    else:
        candidates = [f"{folder}/{name}" for folder in path.split(":")]
    for candidate in candidates:
        try:
            mode = os.stat(candidate).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return candidate
    where = "" if "/" in name else f" in {path}"
    raise HostUnfit(
        f"the program {name!r} is not there{where}", "install it, or name its full path in the policy"
    )
