"""Hazards of the machine's own loggers: auditd and journald stop at a log on a frozen filesystem.

Sources: auditd.conf(5) (log_file, write_logs), auditctl(8) (-b, -f), journald.conf(5) (Storage),
systemd-journald.service (WatchdogSec=3min).

Measured on 6.1, with / frozen: auditd stops in write(2) at its first record, whatever its ``flush`` says,
and audited calls wait for up to 4 s each once the backlog is full; journald stops at the first message,
and whoever sends the three hundredth to /dev/log waits with it, all of them until the thaw.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator

from app.host.hazards.hazard import FATAL, Hazard
from app.host.hazards.scene import Scene
from app.host.mounts import Mount

BACKLOG = 64
"""Records: the kernel's own limit, where no rule sets one (kernel/audit.c, audit_backlog_limit)."""

PANIC = 2
"""The kernel's failure mode (-f) in which a record that is lost is the end of the machine."""

RATE = 100.0
"""Records a second that the backlog should be good for; one execve makes about six."""

WATCHDOG = 180.0
"""Seconds after which systemd kills a journald that does not answer."""


def look(scene: Scene) -> Iterator[Hazard]:
    """Every hazard of this kind, for loggers that are running."""
    if not scene.freezing:
        return
    for process in scene.processes:
        if process.name == "auditd":
            yield from _auditd(scene, process.pid)
        elif process.name == "systemd-journal":  # the kernel cuts names at 15 characters
            yield from _journald(scene, process.pid)


def parse_settings(text: str) -> dict[str, str]:
    """``key = value`` lines, keys in lower case, the last of a key; sections and comments are left out."""
    found = {}
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if equals and line.strip()[:1] not in ("#", ";", "["):
            found[key.strip().lower()] = value.strip()
    return found


def parse_rule(rules: str, option: str) -> int | None:
    """The number that audit rules give for an option such as ``-f``, the last one; None if they do not."""
    found = re.findall(rf"^\s*{option}\s*(\d+)\s*$", rules, re.MULTILINE)
    return int(found[-1]) if found else None


def _auditd(scene: Scene, pid: int) -> Iterator[Hazard]:
    settings = parse_settings(scene.read("/etc/audit/auditd.conf"))
    log = settings.get("log_file", "/var/log/audit/audit.log")
    if settings.get("write_logs", "yes").lower() == "no" or settings.get("log_format", "").upper() == "NOLOG":
        return
    mount = _lies_on(scene, log)
    rules = scene.read("/etc/audit/audit.rules")
    backlog = parse_rule(rules, "-b") or BACKLOG
    panics = parse_rule(rules, "-f") == PANIC
    needed = math.ceil(RATE * scene.timeout)
    # Whatever "flush" says: it stops in write(2), long before it would come to a sync.
    if mount is None or (backlog >= needed and not panics):
        return
    fate = ", and panics when that is full (-f 2)" if panics else ""
    yield Hazard(
        "auditd",
        f"auditd (process {pid}) writes {log} on {mount.path}; the kernel keeps {backlog} records "
        f"back for it, in a freeze of up to {scene.timeout:g} s{fate}",
        f"in /etc/audit/rules.d set -b {max(needed, 8192)}{' and -f 1' if panics else ''}, then augenrules "
        "--load; or give its log a filesystem of its own in freeze.skip",
        pid=pid,
        path=log,
        mount=mount.path,
        severity=FATAL if panics and backlog < needed else "",
    )


def _journald(scene: Scene, pid: int) -> Iterator[Hazard]:
    settings: dict[str, str] = {}
    for file in _journald_files(scene):
        settings.update(parse_settings(scene.read(file)))
    storage = settings.get("storage", "auto").lower()
    log = "/var/log/journal"
    if storage not in ("persistent", "auto") or (storage == "auto" and not scene.exists(log)):
        return
    mount = _lies_on(scene, log)
    # It stops at the first message, which is no hazard for as long as its sockets take what follows.
    if mount is not None and scene.timeout >= WATCHDOG:
        yield Hazard(
            "journald",
            f"journald (process {pid}) keeps {log} on {mount.path}; systemd's watchdog for it "
            f"({WATCHDOG:g} s) falls due during a freeze of up to {scene.timeout:g} s",
            "lower freeze.timeout, or keep the journal in memory: Storage=volatile in "
            "/etc/systemd/journald.conf",
            pid=pid,
            path=log,
            mount=mount.path,
        )


def _journald_files(scene: Scene) -> list[str]:
    """The configuration in the order in which it counts; drop-ins by name, whatever folder they are in."""
    folders = [f"{place}/systemd/journald.conf.d" for place in ("/usr/lib", "/run", "/etc")]
    drop_ins = {name: f"{folder}/{name}" for folder in folders for name in scene.names(folder)}
    parts = [drop_ins[name] for name in sorted(drop_ins) if name.endswith(".conf")]
    return ["/etc/systemd/journald.conf", *parts]


def _lies_on(scene: Scene, path: str) -> Mount | None:
    return scene.frozen_beneath(os.path.realpath(path) if not scene.machine else path)
