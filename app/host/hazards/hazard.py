"""What a hazard is, and every one that is looked for: name, default severity, what is at stake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FATAL, WARNING, IGNORE = "fatal", "warning", "ignore"

SEVERITIES = (IGNORE, WARNING, FATAL)
"""From the mildest to the strictest."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of hazard. ``fixed``: no policy may change its severity, because a law depends on it."""

    severity: str
    stake: str
    fixed: bool = False


KINDS: dict[str, Kind] = {
    "fanotify": Kind(
        FATAL,
        "whoever opens a file there waits for that process; if it stops on the frozen filesystem itself, "
        "by a line in its log, nothing on the machine can open a file, and a freeze can hang in the kernel",
    ),
    "frozen-already": Kind(
        FATAL, "a second freeze is refused (EBUSY), and the other's snapshot and ours would share one thaw"
    ),
    "extension-lock": Kind(
        FATAL, "the Azure Backup extension thaws every filesystem where its own freeze fails, ours too"
    ),
    "loop-order": Kind(
        FATAL, "its last writes need the filesystem beneath, which is frozen by then: the freeze hangs"
    ),
    "no-freeze-support": Kind(FATAL, "the kernel refuses to freeze it (EOPNOTSUPP), so the hold fails"),
    "journal-frozen": Kind(
        FATAL, "we would stop at our own freeze, and nobody would be left to thaw", fixed=True
    ),
    "loop-file": Kind(
        WARNING, "its writers stand still too, and its content in the snapshot is only as after a crash"
    ),
    "nested-mount": Kind(
        WARNING, "the two are not of one moment in the snapshot, and a restore puts one upon the other"
    ),
    "skip-part": Kind(WARNING, "it is frozen all the same: a filesystem is frozen as a whole or not at all"),
    "hidden-mount": Kind(WARNING, "whoever has files open there goes on writing while the snapshot is taken"),
    "container-storage": Kind(
        WARNING, "containers stand still with it, so that health checks may fail and restart them"
    ),
    "nfs-export": Kind(
        WARNING, "NFS clients hang for as long as it is frozen, and the server's threads with them"
    ),
    "auditd": Kind(
        WARNING,
        "auditd stops at its log; once the kernel's backlog is full audited calls wait and records are lost, "
        "upon which a kernel that was told so (-f 2) panics",
    ),
    "journald": Kind(
        WARNING, "journald stops at its log; once its socket is full every service that logs waits"
    ),
    "backup-running": Kind(
        WARNING, "two backups at once: it may freeze, lock or thaw what we hold, and its own copy stalls"
    ),
    "dirty-pages": Kind(
        WARNING,
        "the freeze writes them back while every writer waits, and may take longer than it is allowed",
    ),
    "read-only": Kind(
        WARNING, "freezing it does nothing; the kernel remounts a filesystem like this after an error"
    ),
    "run-on-disk": Kind(
        WARNING, "a disk that stops, or is frozen by somebody else, stops us in the middle of a hold"
    ),
    "run-full": Kind(
        WARNING, "what is not in the journal was not achieved: the report would name a lower level"
    ),
}
"""Every hazard by its stable name. Names are published: they stand in policies."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """One hazard that was found.

    ``what`` is found, with its cause; ``cure`` a command, or what to do. ``pid`` 0, ``path`` "",
    ``mount`` "" where none is concerned. ``severity`` is FATAL or WARNING; "" as long as nobody has said
    so: then it is its kind's.
    """

    name: str
    what: str
    cure: str
    pid: int = 0
    path: str = ""
    mount: str = ""
    severity: str = ""

    @property
    def stake(self) -> str:
        """What is at stake."""
        return KINDS[self.name].stake

    def facts(self) -> dict[str, Any]:
        """JSON values, for the report and for programs."""
        return {
            "name": self.name,
            "severity": self.severity,
            "what": self.what,
            "stake": self.stake,
            "cure": self.cure,
            "pid": self.pid or None,
            "path": self.path or None,
            "filesystem": self.mount or None,
        }

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def severity_of(hazard: Hazard, chosen: Mapping[str, str]) -> str:
    """The severity in force: the policy's, unless it is fixed; else its own, or that of its kind."""
    kind = KINDS[hazard.name]
    return kind.severity if kind.fixed else chosen.get(hazard.name, hazard.severity or kind.severity)


def changeable() -> list[str]:
    """Names whose severity a policy may set."""
    return [name for name, kind in KINDS.items() if not kind.fixed]
