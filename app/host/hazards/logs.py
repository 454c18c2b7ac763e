"""Hazards of the machine's own loggers: auditd and journald stop at a log on a frozen filesystem.

Sources: auditd.conf(5) (flush, log_file, write_logs), auditctl(8) (-f, -e), journald.conf(5) (Storage,
SyncIntervalSec), systemd.time(7) (time spans), systemd-journald.service (WatchdogSec=3min).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from app.host.hazards.hazard import Hazard
from app.host.hazards.scene import Scene
from app.host.mounts import Mount

SYNC_INTERVAL = 300.0
"""Seconds: journald's own SyncIntervalSec."""

WATCHDOG = 180.0
"""Seconds after which systemd kills a journald that does not answer."""

_UNITS = {
    "": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0,
    "hours": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip


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


def parse_span(text: str) -> float | None:
    """Seconds of a systemd time span such as ``1min 30s``; None if it is none."""
    parts = re.findall(r"([0-9.]+)\s*([a-z]*)\s*", text.strip())
    if not parts or re.sub(r"[0-9.]+\s*[a-z]*\s*", "", text.strip()):
        return None
    try:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    except (KeyError, ValueError):
        return None


def parse_failure(rules: str) -> int:
    """The kernel's failure mode by audit rules (``-f N``, the last one): 0 silent, 1 printk, 2 panic."""
    modes = re.findall(r"^\s*-f\s*([012])\s*$", rules, re.MULTILINE)
    return int(modes[-1]) if modes else 1


def _auditd(scene: Scene, pid: int) -> Iterator[Hazard]:
    settings = parse_settings(scene.read("/etc/audit/auditd.conf"))
    log = settings.get("log_file", "/var/log/audit/audit.log")
    if settings.get("write_logs", "yes").lower() == "no" or settings.get("log_format", "").upper() == "NOLOG":
        return
    mount = _lies_on(scene, log)
    panics = parse_failure(scene.read("/etc/audit/audit.rules")) == 2
    flush = settings.get("flush", "incremental_async").lower()
    if mount is not None and (panics or flush in ("sync", "data")):
        mode = f"flush = {flush}" + (", and the kernel panics where audit fails (-f 2)" if panics else "")
        yield Hazard(
            "auditd",
            f"auditd (process {pid}) writes {log} on {mount.path}; {mode}",
            "set flush = incremental_async in /etc/audit/auditd.conf and -f 1 in the rules, raise the "
            "backlog (auditctl -b 65536), or give its log a filesystem of its own in freeze.skip",
            pid=pid,
            path=log,
            mount=mount.path,
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
    interval = parse_span(settings.get("syncintervalsec", "")) or SYNC_INTERVAL
    # By itself it only queues what it is sent; a sync or its watchdog must not fall due during the freeze.
    if mount is not None and scene.timeout >= min(interval, WATCHDOG):
        due = "its SyncIntervalSec" if interval <= WATCHDOG else "systemd's watchdog for it"
        yield Hazard(
            "journald",
            f"journald (process {pid}) keeps {log} on {mount.path}; {due} ({min(interval, WATCHDOG):g} s) "
            f"falls due during a freeze of up to {scene.timeout:g} s",
            f"set SyncIntervalSec={SYNC_INTERVAL:g} in /etc/systemd/journald.conf, or lower freeze.timeout",
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
