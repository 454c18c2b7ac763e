"""Starting a hold and steering it: the client's side of the holder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app import __version__, answers, control, history, mechanisms
from app.errors import Busy, HostUnfit
from app.freeze import Target
from app.holder import Holder
from app.host import trust
from app.host.fork import Child, fork_child, keep_in_children, reap, receive
from app.host.mounts import Mount, open_mount
from app.host.precedence import give_precedence_back, take_precedence
from app.journal import Journal
from app.manifest import Manifest
from app.paths import Paths
from app.plan import Application, Outcome, Plan
from app.recipe import all_steps

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

WATCHDOG_SECONDS = 8.0
"""How long the client waits for every process of the hold to end."""


def prepare_folders(paths: Paths) -> None:
    """Make our folders, ours alone. Raises HostUnfit if they are somebody else's."""
    for folder in (paths.run, paths.lib, paths.log):
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            # As root with every folder above it: what is written there will be believed after a crash. Not so
            # what is logged, and Ubuntu's /var/log is its group's, too.
            believed = os.geteuid() == 0 and folder != paths.log
            opened = trust.open_folder(folder) if believed else os.open(folder, _FOLDER)
            try:
                status = os.fstat(opened)
                if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                    raise HostUnfit(
                        f"{folder}: must be owned by whoever runs app and writable by nobody else"
                    )
                os.fchmod(opened, 0o700)
            finally:
                os.close(opened)
        except OSError as error:
            raise HostUnfit(
                f"{folder}: {error.strerror}",
                "run as root, or set STILLFRAME_PREFIX to a folder of your own",
            ) from error


def take_lock(paths: Paths) -> int:
    """The lock of this VM's one hold, kept by every process of it. Raises Busy (exit 5)."""
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Busy(
            "another hold is running on this machine", "app status says whose, and until when"
        ) from None
    return descriptor


def is_locked(paths: Paths) -> bool:
    """Whether a process of a hold still has the lock; nothing is made. Raises PermissionError."""
    try:
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def open_targets(mounts: Sequence[Mount]) -> list[Target]:
    """Open every filesystem to freeze, before the hold. Raises HostUnfit."""
    return [Target(mount, open_mount(mount)) for mount in mounts]


class Hold:
    """A hold that this process started; it ends with this process, unless it is detached."""

    def __init__(self, holder: Child, alive: int, notes: Journal) -> None:
        self._holder = holder
        self._alive = alive
        self._died = False
        self.over = False
        """Whether every process of it has ended."""
        self.notes = notes
        self.broken = ""

    def quiesce(self) -> bool:
        """Connect to and quiesce every application; False if a required one could not be held."""
        return bool(self._ask("hold").get("held"))

    def freeze(self) -> dict[str, Any]:
        """Freeze; keys ``frozen``, and where it failed ``reason``, ``busy``, ``hung``."""
        return self._ask("freeze")

    def thaw(self) -> list[str]:
        """Thaw; the mount points that could not be thawed."""
        stuck: list[str] = self._ask("thaw").get("stuck", [])
        return stuck

    def release(self, outcome: Outcome = Outcome.NONE) -> None:
        """Prove, release, and see the holder end."""
        self._ask("release", outcome=outcome)
        self._settle()

    def abandon(self, reason: str) -> None:
        """Break the hold, whatever was asked for before, and see its end."""
        with contextlib.suppress(OSError):  # the holder died: its watchdog does the same
            self._holder.channel.send(json.dumps({"do": "abandon", "reason": reason}).encode())
        self.broken = self.broken or reason
        self._settle()

    def detach(self) -> bool:
        """Leave the hold to the post-script. False if it was broken meanwhile."""
        return bool(self._ask("detach").get("detached"))

    def register(self, pid: int) -> None:
        """Name a process that must end with this client."""
        # A failure means that the holder died, which the next order says.
        with contextlib.suppress(OSError):
            self._holder.channel.send(json.dumps({"do": "register", "pid": pid}).encode())

    @property
    def channel(self) -> int:
        """A descriptor that becomes readable when the hold breaks."""
        return self._holder.channel.fileno()

    def is_broken(self) -> bool:
        """Whether the hold has been lost since the last order, without waiting."""
        poll = select.poll()
        poll.register(self._holder.channel.fileno(), select.POLLIN)
        if not self.broken and poll.poll(0):
            self._receive()
        return bool(self.broken)

    def _ask(self, order: str, **facts: str) -> dict[str, Any]:
        if self._died:
            return {"reason": self.broken}
        try:
            self._holder.channel.send(json.dumps({"do": order, **facts}).encode())
        except OSError:
            self._lost()
            return {"reason": self.broken}
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        data = receive(self._holder.channel, 1 << 20)
        if not data:
            self._lost()
            return {"reason": self.broken}
        reply: dict[str, Any] = json.loads(data)
        self.broken = reply.get("broken") or self.broken
        reply.setdefault("reason", self.broken)
        if reply.get("released") and "stuck" in reply:
            self._settle()
        return reply

    def _lost(self) -> None:
        """The holder died: its watchdog undoes everything and writes the report."""
        self.broken = self.broken or "the holder died"
        self._settle()

    def _settle(self) -> None:
        if self._died:
            return
        self._died = True
        # Written to by nobody, and hung up once the last process of the hold has ended.
        poll = select.poll()
        poll.register(self._alive, select.POLLIN)
        self.over = bool(poll.poll(WATCHDOG_SECONDS * 1000))
        os.close(self._alive)
        reap(self._holder.pid, 0.1)
        give_precedence_back()


def start(
    plan: Plan,
    kind: str,
    *,
    paths: Paths,
    targets: Sequence[Target],
    give_up_at: float,
    sync_only: bool,
    **facts: Any,
) -> Hold:
    """Fork a holder for ``plan``; nothing is quiesced yet. The caller holds the lock (take_lock).

    ``kind``: "pre" (the post-script will end it) or "run". ``sync_only``: the targets are written
    back, not frozen. ``facts`` go into the journal's first event. Raises HostUnfit, with nothing begun.
    """
    for application in plan.applications:
        for name in _mechanisms(application):
            mechanisms.load(name)  # nothing is imported during the hold
    # Whoever orders the thaw must not wait for a processor either, nor die slowly if it is killed.
    take_precedence(spared=False)
    manifest = Manifest(plan, paths)
    notes = Journal(paths.journal, fresh=True)
    notes.note(
        "begin",
        hold=secrets.token_hex(8),
        kind=kind,
        pid=os.getpid(),
        wall=datetime.now(UTC).isoformat(timespec="milliseconds"),
        plan=plan.digest(),
        version=__version__,
        requested=plan.requested.word,
        provider=plan.snapshot.provider,
        **facts,
    )
    try:
        _remember(plan, paths)
    except OSError as error:
        # Nothing was begun, so nobody is to look for what is left of it.
        os.ftruncate(notes.descriptor, 0)
        with contextlib.suppress(OSError):
            os.unlink(paths.outstanding)
        raise HostUnfit(
            f"{error.filename or paths.lib}: {error.strerror}: what is held could not be written down"
        ) from error
    control.remove(paths)

    alive, kept = os.pipe2(os.O_CLOEXEC)

    def body(channel: socket.socket) -> None:
        keep_in_children(kept)
        Holder(plan, kind, channel, notes, paths, targets, give_up_at, sync_only, manifest).run()

    also = [notes.descriptor, kept, *manifest.descriptors, *(t.descriptor for t in targets)]
    holder = fork_child(body, session=True, also_keep=also)
    os.close(kept)
    manifest.close()
    return Hold(holder, alive, notes)


def _mechanisms(application: Application) -> list[str]:
    return sorted({step.mechanism for step in all_steps(application)})


def _remember(plan: Plan, paths: Paths) -> None:
    """Write the plan down for whoever has to recover; on disk if what it quiesces survives a reboot."""
    # Whoever kills us in between must find the old one or the new one: recovering refuses half a plan.
    history.write_private(f"{paths.plan}.new", plan.to_json())
    os.rename(f"{paths.plan}.new", paths.plan)
    answers.forget(paths)
    if any(a.recover for a in plan.applications):
        temporary = f"{paths.outstanding}.new"
        history.write_private(temporary, plan.to_json())
        os.rename(temporary, paths.outstanding)
        folder = os.open(paths.lib, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(folder)
        os.close(folder)
