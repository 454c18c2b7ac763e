"""Proving a restored copy: start the application on it, run its checks, stop it.

The copy is written to (a database recovers when it starts), so it must be a clone that nobody else
uses; what shows that it is not, or that it leads out of itself, is refused before anything starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app import mechanisms
from app.credentials import Vault
from app.errors import HostUnfit, StillframeError
from app.host.process import SEARCH_PATH, Account, Program, account_of, end_group
from app.masking import mask, mask_all
from app.mechanisms import StepFailed, Waiter
from app.plan import Application, Prove, Step
from app.recipe import Recipe, describe
from app.template import fill, fill_all, mentioned

PATIENCE = 86400.0
"""Seconds for one check: reading a whole database takes what it takes; the operator can interrupt."""

SECRETS_SECONDS = 60.0
"""Longest time for reading secrets."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether the copy works, why not, and each check with its length in seconds.

    ``found``: the answers that its checks save, such as where in its logs the copy stands.
    """

    proven: bool
    reason: str
    server_seconds: float | None
    checks: tuple[dict[str, Any], ...]
    found: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "proven": self.proven,
            "reason": self.reason,
            "server_seconds": self.server_seconds,
            "checks": list(self.checks),
            "found": dict(self.found),
        }


def prove(application: Application, data: str, progress: Progress) -> Proof:
    """Start ``application`` on the copy in the folder ``data``, check it, stop it.

    Raises HostUnfit if the copy cannot be tried at all: it is in use, leads elsewhere, or a program
    is missing.
    """
    if application.prove is None:
        raise HostUnfit(
            f"{application.name}: its policy has no [prove] table", "say there how to start and check it"
        )
    data = os.path.realpath(data)
    _refuse_live(data)
    recipe = application.prove
    account = account_of(recipe.user, data)
    with contextlib.ExitStack() as stack:
        copy = _open_folder(data, stack)
        facts = _read_facts(recipe, data, copy)
        values = {**facts, **_open_secrets(application), "data": data}
        scratch = tempfile.mkdtemp(prefix="stillframe-prove-")
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        values["scratch"] = scratch
        place = _open_folder(scratch, stack)
        _write_files(recipe.files, values, place, account)
        # The last of all: from here on its new owner decides what stands in there.
        os.fchown(place, account.uid, account.gid)
        _remove(recipe.remove, data, copy)
        # Nameless, and only its descriptor is used: nobody else can lead it to another file.
        log = stack.enter_context(tempfile.TemporaryFile(prefix="stillframe-prove-", buffering=0))
        return _Trial(application, recipe, values, account, log.fileno(), progress).run()


def _open_folder(path: str, stack: contextlib.ExitStack) -> int:
    """A folder to reach files in whatever becomes of its path. Raises HostUnfit."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostUnfit(f"{path}: {error.strerror}") from None
    stack.callback(os.close, descriptor)
    return descriptor


def _open_secrets(application: Application) -> Mapping[str, str]:
    """The secrets that are needed to check a copy, most often none. Raises HostUnfit."""
    assert application.prove is not None
    steps = (*application.prove.engine, *application.prove.check)
    named = mentioned([application.prove.mechanisms, [step.do for step in steps]])
    vault = Vault({name: secret for name, secret in application.secrets.items() if name in named})
    try:
        vault.open(Waiter(), lambda pid: None, time.monotonic() + SECRETS_SECONDS)
    except StepFailed as error:
        raise HostUnfit(str(error)) from None
    return vault.values


def _refuse_live(data: str) -> None:
    if not os.path.isdir(data):
        raise HostUnfit(f"{data} is not a folder", "give --data the folder of a restored copy")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            used = [os.readlink(f"/proc/{pid}/cwd")]
            used += [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue  # ended, or not ours to see
        inside = [path for path in used if path.startswith(f"{data}/") or (path == data and path == used[0])]
        if inside and int(pid) != os.getpid():
            raise HostUnfit(
                f"{data} is in use by process {pid} ({inside[0]})", "prove a clone, never the live data"
            )
    for folder, folders, _ in os.walk(data):
        for name in folders:
            path = f"{folder}/{name}"
            if os.path.islink(path) and not os.path.realpath(path).startswith(f"{data}/"):
                raise HostUnfit(
                    f"{path} leads out of the copy, to {os.path.realpath(path)}",
                    "point the link at the restored copy of that folder, inside --data",
                )


def _read_facts(recipe: Prove, data: str, copy: int) -> dict[str, str]:
    facts = {}
    for name, (file, pattern) in recipe.facts.items():
        try:
            text = _read_below(copy, file)
        except OSError as error:
            wrong = "a symbolic link is on the way" if error.errno == errno.ELOOP else error.strerror
            raise HostUnfit(
                f"{data}/{file}: {wrong}", "is --data the application's own data folder?"
            ) from None
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            raise HostUnfit(f"{data}/{file} does not look as expected: nothing matches {pattern!r}")
        facts[name] = match.group(1) if match.re.groups else match.group(0)
    return facts


def _read_below(folder: int, file: str) -> str:
    """The first 64 KiB of a file below an open folder, never by a link and never of a pipe. Raises OSError.

    The folder is the application's, and root reads: what somebody put there in the file's place must
    neither lead elsewhere nor hang us.
    """
    *folders, name = file.split("/")
    with contextlib.ExitStack() as stack:
        for part in folders:
            folder = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            stack.callback(os.close, folder)
        # Looked at before it is opened too: opening a device can already do something.
        _refuse_special(os.stat(name, dir_fd=folder, follow_symlinks=False))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
        stack.callback(os.close, descriptor)
        _refuse_special(os.fstat(descriptor))
        return os.pread(descriptor, 1 << 16, 0).decode("utf-8", "replace")


def _refuse_special(state: os.stat_result) -> None:
    if stat.S_ISLNK(state.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "is no regular file")


def _remove(names: Sequence[str], data: str, copy: int) -> None:
    for name in names:
        try:
            os.unlink(name, dir_fd=copy)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HostUnfit(f"{data}/{name}: cannot be removed: {error.strerror}", "move it away") from None


def _write_files(files: Mapping[str, str], values: Mapping[str, str], place: int, account: Account) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for name, text in files.items():
        descriptor = os.open(os.path.basename(name), flags, 0o600, dir_fd=place)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchown(descriptor, account.uid, account.gid)
            file.write(fill(text, values))


class _Trial:
    """One start of the application on the copy; what it prints goes to the open file ``log``."""

    def __init__(
        self,
        application: Application,
        recipe: Prove,
        values: Mapping[str, str],
        account: Account,
        log: int,
        progress: Progress,
    ) -> None:
        self._name = application.name
        self._recipe = recipe
        self._values = values
        self._account = account
        self._progress: Progress = lambda text: progress(mask(text))
        self._path = ":".join([*(fill(folder, values) for folder in recipe.path), SEARCH_PATH])
        self._log = log
        options = {name: self._options(name, table) for name, table in recipe.mechanisms.items()}
        # What stands in there is final text already, secrets too.
        self._connections = Recipe(options, Waiter(), lambda pid: None)
        self._engine = [self._step(step) for step in recipe.engine]
        self._check = [self._step(step) for step in recipe.check]
        self._checks: list[dict[str, Any]] = []

    def run(self) -> Proof:
        server: subprocess.Popen[bytes] | None = None
        seconds: float | None = None
        reason = ""
        try:
            if self._recipe.start:
                argv = tuple(fill_all(list(self._recipe.start), self._values))
                begun = time.monotonic()
                server = self._start(argv)
                reason = self._await(server, begun + self._recipe.start_seconds)
                seconds = round(time.monotonic() - begun, 3)
                if not reason:
                    self._progress(f"{self._name}: the server started on the copy in {seconds:.1f} s")
            else:
                self._connections.connect([*self._engine, *self._check], time.monotonic() + PATIENCE)
            reason = reason or self._run_checks()
        except (StepFailed, StillframeError) as error:
            reason = str(error)
        finally:
            self._connections.close(time.monotonic() + 1)
            if server is not None:
                reason = (
                    self._stop(server) or reason if not reason else reason + self._tail(self._stop(server))
                )
        found = mask_all(self._connections.saved)
        return Proof(not reason, mask(reason), seconds, tuple(mask_all(self._checks)), found)

    def _options(self, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
        # What the mechanism itself puts in the place of a private file's name stays as it is.
        files = {file: f"{{{file}}}" for file in table.get("files", {})}
        filled: dict[str, Any] = fill_all(dict(table), {**self._values, **files})
        if "argv" in filled:
            filled["argv"] = self._located(filled["argv"])
        if "user" in mechanisms.load(name).OPTIONS_SCHEMA["properties"]:
            filled.setdefault("user", self._account.name)
        return filled

    def _step(self, step: Step) -> Step:
        files = self._recipe.mechanisms.get(step.mechanism, {}).get("files", {})
        do = fill_all(dict(step.do), {**self._values, **{file: f"{{{file}}}" for file in files}})
        if "argv" in do:
            do["argv"] = self._located(do["argv"])
        return replace(step, do=do)

    def _located(self, argv: Sequence[str]) -> list[str]:
        """``argv`` with the program's full path, looked for in the recipe's folders first."""
        if "/" in argv[0]:
            return list(argv)
        return [shutil.which(argv[0], path=self._path) or argv[0], *argv[1:]]

    def _start(self, argv: tuple[str, ...]) -> subprocess.Popen[bytes]:
        program = Program(tuple(self._located(argv)), self._account.name, {}, self._path)
        return program.start(merge_errors=True, output=self._log)

    def _await(self, server: subprocess.Popen[bytes], deadline: float) -> str:
        """Connect as soon as the server lets us; the reason if it never does."""
        reason = ""
        while time.monotonic() < deadline:
            if server.poll() is not None:
                return f"the server ended with status {server.returncode}"
            try:
                self._connections.connect([*self._engine, *self._check], deadline)
                return ""
            except StepFailed as error:
                reason = str(error)
                self._connections.kill()
            time.sleep(0.1)
        return f"the server did not answer in {self._recipe.start_seconds:.0f} s: {reason}"

    def _run_checks(self) -> str:
        for step in (*self._engine, *self._check):
            what = describe(step)
            begun = time.monotonic()
            try:
                self._connections.perform([step], begun + PATIENCE)
                error = ""
            except StepFailed as failure:
                error = str(failure)
            took = round(time.monotonic() - begun, 3)
            self._checks.append({"what": what, "ok": not error, "seconds": took, "reason": error})
            self._progress(f"{self._name}: {'ok' if not error else 'FAILED'} ({took:.1f} s): {what}")
            if error:
                return error
        return ""

    def _stop(self, server: subprocess.Popen[bytes]) -> str:
        """Stop the server as its recipe says; the reason if it does not stop in good order."""
        number = signal.Signals[f"SIG{self._recipe.stop_signal}"]
        if server.poll() is None:
            server.send_signal(number)
            try:
                server.wait(self._recipe.stop_seconds)
            except subprocess.TimeoutExpired:
                end_group(server, signal.SIGKILL, grace=0)
                return f"the server did not stop in {self._recipe.stop_seconds:.0f} s"
        end_group(server, signal.SIGKILL, grace=0)
        # Some clean up and then die of the signal after all, as a shell expects it (etcd).
        in_order = server.returncode in (0, -number)
        return "" if in_order else f"the server ended with status {server.returncode}"

    def _tail(self, ending: str) -> str:
        """The end of the server's own log, for the reason."""
        size = os.fstat(self._log).st_size
        text = os.pread(self._log, 2000, max(0, size - 2000)).decode("utf-8", "replace")
        last = text.strip().splitlines()[-8:]
        return "".join(f"\n    {line}" for line in ([ending] if ending else []) + last)
