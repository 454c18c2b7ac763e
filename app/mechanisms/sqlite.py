"""``sqlite``: SQLite databases, held by a write transaction in a process of the file's owner.

The database is opened by a child process that first becomes the owner of the file, so that the
``-wal`` and ``-shm`` files that SQLite may create are the application's own, and so that root
never follows a path that the owner could change. The lock dies with that process.

Whom the child becomes is decided by the file that is named, never by where a symbolic link leads, and
only where its folder is that owner's too, or root's: whoever may write there can put a journal beside a
database, which SQLite plays back into it. What the child has opened must then be that very file.

Sources: sqlite.org/lang_transaction.html, sqlite.org/pragma.html (wal_checkpoint, data_version,
integrity_check), sqlite.org/uri.html.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pwd
import socket
import sqlite3
import stat
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import HostUnfit
from app.host import trust
from app.host.fork import Child, fork_child, reap, receive
from app.host.precedence import as_given, hasten
from app.host.process import Account
from app.mechanisms import ConnectionLost, Register, StepFailed, Waiter
from app.plan import Options, Step

ACTIONS = ("checkpoint", "lock", "verify", "release", "check")

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["databases"],
    "properties": {
        "databases": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "full paths",
        },
        "below": {
            "type": "string",
            "description": "folder of a restored copy: the databases are looked for there",
        },
    },
}

STEP_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["action"],
    "properties": {"action": {"enum": list(ACTIONS), "description": "what to do with every database"}},
}


NO_GROUP = 65534
"""The group of those who have none: the kernel's overflowgid (proc_sys_kernel(5)), nogroup by name."""

Inode = tuple[int, int]
"""Device and number."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A database and its folder as they were looked at."""

    path: str
    file: Inode
    folder: Inode


class SqliteConnection:
    """One child process for each owner of databases."""

    identity = ""
    version: int | None = None

    def __init__(self, options: Options, waiter: Waiter, register: Register, deadline: float) -> None:
        self._waiter = waiter
        by_owner: dict[Account, list[Judged]] = {}
        for path in options["databases"]:
            judged, owner = judge(_below(options["below"], path) if options.get("below") else path)
            by_owner.setdefault(account_of(owner), []).append(judged)
        self._children: list[Child] = []
        try:
            for account, databases in by_owner.items():
                with as_given():
                    child = fork_child(functools.partial(_serve, account=account, databases=databases))
                self._children.append(child)
                register(child.pid)
            self._ask("open", deadline)
        except BaseException:
            self.kill()
            raise

    def perform(self, step: Step, deadline: float) -> str:
        """Do the action with every database; the answers, a line each."""
        answers = self._ask(step.do["action"], deadline)
        if step.do["action"] == "lock":
            # Writers wait for it from now on, and what it has left to do is little.
            for child in self._children:
                hasten(child.pid)
        return "\n".join(answers)

    def prove(self, deadline: float) -> None:
        """The child that holds the lock must answer."""
        self._ask("ping", deadline)

    def lost(self) -> int | None:
        """The first child's channel; it speaks only when asked, so readable means ended."""
        return self._children[0].channel.fileno() if self._children else None

    def complaint(self) -> str:
        """How the connection was lost."""
        return "the process that holds the SQLite lock has ended"

    def close(self, deadline: float) -> None:
        """Let the child close its databases, which takes back a WAL that nobody else uses."""
        for child in self._children:
            with contextlib.suppress(OSError):
                child.channel.send(b'{"action": "close", "seconds": 0}')
        for child in self._children:
            if reap(child.pid, max(0.0, deadline - time.monotonic())):
                child.channel.close()
            else:
                child.end()
        self._children.clear()

    def kill(self) -> None:
        """End the children; their locks go with them."""
        for child in self._children:
            child.end()
        self._children.clear()

    def _ask(self, action: str, deadline: float) -> list[str]:
        left = max(0.0, deadline - time.monotonic())
        # A little less than we wait, so that the answer is the child's own reason.
        request = json.dumps({"action": action, "seconds": left - min(0.2, left / 4)}).encode()
        for child in self._children:
            try:
                child.channel.send(request)
            except OSError:
                raise ConnectionLost(self.complaint()) from None
        answers: list[str] = []
        for child in self._children:
            self._waiter.wait(child.channel.fileno(), deadline)
            data = receive(child.channel, 1 << 16)
            if not data:
                raise ConnectionLost(self.complaint())
            reply = json.loads(data)
            if "error" in reply:
                raise StepFailed(reply["error"])
            answers += reply["answers"]
        return answers


def connect(
    options: Options, steps: Sequence[Step], waiter: Waiter, register: Register, deadline: float
) -> SqliteConnection:
    """Open every database, as its owner."""
    return SqliteConnection(options, waiter, register, deadline)


def judge(path: str) -> tuple[Judged, int]:
    """A database, and the user id that is to open it.

    Raises HostUnfit if it is not there, is a symbolic link, or could be another's than its owner's.
    """
    try:
        state, folder = _look(path)
    except OSError as error:
        raise HostUnfit(
            f"{path}: {error.strerror}", "settings.databases lists full paths of existing files"
        ) from None
    if stat.S_ISLNK(state.st_mode):
        raise HostUnfit(f"{path}: is a symbolic link", f"name the file itself: {os.path.realpath(path)}")
    if not stat.S_ISREG(state.st_mode):
        raise HostUnfit(f"{path}: is no regular file", "settings.databases lists full paths of files")
    judged = Judged(path, _inode(state), _inode(folder))
    if os.geteuid() != 0:
        return judged, os.geteuid()
    if folder.st_uid not in (0, state.st_uid):
        raise HostUnfit(
            f"{path}: belongs to user {state.st_uid}, and its folder to user {folder.st_uid}",
            "the folder must be root's or the database's owner's",
        )
    # In a sticky folder, too, everybody may add files. Of other folders than root's, the owner decides.
    others = stat.S_IWOTH if state.st_uid else stat.S_IWOTH | stat.S_IWGRP
    if folder.st_mode & others:
        raise HostUnfit(
            f"{path}: others may put files beside it (its folder has mode {stat.S_IMODE(folder.st_mode):o})",
            "give it a folder in which nobody else may write",
        )
    if state.st_uid == 0:
        # As root we follow no path that somebody else could bend to another file.
        os.close(trust.open_trusted(path))
    return judged, state.st_uid


def _look(path: str) -> tuple[os.stat_result, os.stat_result]:
    """What a file is, itself and no target of a link, and what its folder is. Raises OSError."""
    place, name = os.path.split(path)
    with contextlib.ExitStack() as stack:
        folder = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        stack.callback(os.close, file)
        return os.fstat(file), os.fstat(folder)


def account_of(uid: int) -> Account:
    """Who the child becomes: the user with the groups of that user, never the group of a file.

    A user id without a name has no groups that anybody gave it, and gets none.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account("", uid, NO_GROUP, (), "/")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Account(entry.pw_name, uid, entry.pw_gid, tuple(groups), entry.pw_dir)


def _below(folder: str, path: str) -> str:
    """The copy of ``path`` in a restored folder: the longest tail of it that exists there."""
    parts = path.strip("/").split("/")
    for start in range(len(parts)):
        candidate = os.path.join(folder, *parts[start:])
        if os.path.isfile(candidate):
            return candidate
    raise HostUnfit(
        f"{folder}: holds no copy of {path}", "give --data the folder that holds the restored volume"
    )


class _Database:
    """One open database, in the child.

    What waits for writers asks again every half millisecond: SQLite's own busy handler sleeps for up
    to 100 ms, and a steady writer never lets it in.
    """

    def __init__(self, judged: Judged, seconds: float) -> None:
        self.path = judged.path
        self._judged = judged
        self._refuse_another()  # before SQLite plays back a journal that stands beside it
        self.link = sqlite3.connect(
            f"file:{urllib.parse.quote(self.path)}?mode=rw", uri=True, isolation_level=None, timeout=0
        )
        self.version: int | None = None
        self.value("PRAGMA schema_version", time.monotonic() + seconds)
        self._refuse_another()
        if not _is_open(judged.file):
            raise sqlite3.OperationalError(_ANOTHER)

    def value(self, statement: str, end: float = 0.0) -> Any:
        """The first column of the answer; while the database is locked, asked again until ``end``."""
        while True:
            try:
                row = self.link.execute(statement).fetchone()
                return row[0] if row else None
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                    raise
            time.sleep(0.0005)

    def checkpoint(self, seconds: float) -> str:
        """Move the WAL into the database as far as readers let us; what is left is in the snapshot too."""
        end = time.monotonic() + min(2.0, seconds / 2)
        if str(self.value("PRAGMA journal_mode", end)).lower() != "wal":
            return "no write-ahead log"
        while True:
            busy, pages, moved = self.link.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy or time.monotonic() >= end:
                break
            time.sleep(0.0005)
        return f"checkpoint {'incomplete' if busy else 'complete'}: {max(moved, 0)} of {max(pages, 0)} pages"

    def lock(self, seconds: float) -> str:
        """Begin a write transaction: from now on nobody else can commit."""
        self.value("BEGIN IMMEDIATE", time.monotonic() + seconds)
        self.version = int(self.value("PRAGMA data_version"))
        return "locked"

    def verify(self, seconds: float) -> str:
        """The transaction is open, nobody committed meanwhile, and the file is still the one we opened."""
        if not self.link.in_transaction:
            raise sqlite3.OperationalError("the write transaction has ended")
        if self.value("PRAGMA data_version") != self.version:
            raise sqlite3.OperationalError("somebody else has committed during the hold")
        if _inode(os.lstat(self.path)) != self._judged.file:
            raise sqlite3.OperationalError("the file was replaced during the hold")
        return "held"

    def release(self, seconds: float) -> str:
        """Roll the empty transaction back; it must still be ours to roll back."""
        if not self.link.in_transaction:
            raise sqlite3.OperationalError("the write transaction has ended")
        self.link.execute("ROLLBACK")
        return "released"

    def check(self, seconds: float) -> str:
        """The engine's own check of the whole file."""
        rows = [str(row[0]) for row in self.link.execute("PRAGMA integrity_check")]
        if rows != ["ok"]:
            raise sqlite3.DatabaseError("; ".join(rows[:5]))
        return "ok"

    def _refuse_another(self) -> None:
        state, folder = _look(self.path)
        if (_inode(state), _inode(folder)) != (self._judged.file, self._judged.folder):
            raise sqlite3.OperationalError(_ANOTHER)


_ANOTHER = "another file stands there than the one whose owner was looked at"


def _inode(state: os.stat_result) -> Inode:
    return state.st_dev, state.st_ino


def _is_open(file: Inode) -> bool:
    """Whether this process has that file open."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if _inode(os.fstat(int(name))) == file:
                return True
    return False


def _serve(channel: socket.socket, account: Account, databases: list[Judged]) -> None:
    """The child: become the owner, then answer until the channel closes."""
    if os.geteuid() == 0 and account.uid != 0:
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    os.umask(0o077)
    opened: list[_Database] = []
    while data := receive(channel, 1 << 16):
        request = json.loads(data)
        action, seconds = request["action"], request["seconds"]
        end = time.monotonic() + seconds
        at = ""
        if action == "close":
            # In good order only: closing may write, and whoever loses its keeper may stand on frozen ground.
            for database in opened:
                with contextlib.suppress(sqlite3.Error):
                    database.link.close()
            return
        try:
            if action == "open":
                answers = []
                for judged in databases:
                    at = judged.path
                    opened.append(_Database(judged, end - time.monotonic()))
                    answers.append(f"{at}: open")
            elif action == "ping":
                answers = [f"{database.path}: open" for database in opened]
            else:
                answers = []
                for database in opened:
                    at = database.path
                    answers.append(f"{at}: {getattr(database, action)(end - time.monotonic())}")
            reply: dict[str, Any] = {"answers": answers}
        except (sqlite3.Error, OSError) as error:
            reply = {"error": f"{at}: {error}"}
        channel.send(json.dumps(reply).encode())
