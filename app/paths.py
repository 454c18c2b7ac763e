"""Where stillframe keeps its files on a VM. ``STILLFRAME_PREFIX`` puts all of them under a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass

PREFIX_VARIABLE = "STILLFRAME_PREFIX"
CONFIG_DIRECTORY = "/etc/azure"
BINARY = "/usr/local/bin/app"


@dataclass(frozen=True, slots=True)
class Paths:
    """The three folders: ``run`` (tmpfs: journal, control), ``lib`` (reports), ``log``."""

    run: str
    lib: str
    log: str

    @property
    def journal(self) -> str:
        """What is frozen and quiesced just now, one JSON object a line."""
        return f"{self.run}/journal"

    @property
    def plan(self) -> str:
        """The plan of the hold in progress, for whoever has to recover."""
        return f"{self.run}/plan.json"

    @property
    def lock(self) -> str:
        """Locked (flock) by the holder and the watchdog for as long as either lives."""
        return f"{self.run}/lock"

    @property
    def control(self) -> str:
        """FIFO on which the post-script tells the holder to release."""
        return f"{self.run}/control"

    @property
    def answer(self) -> str:
        """FIFO on which the holder answers the post-script: one line, exit status first."""
        return f"{self.run}/answer"

    @property
    def reports(self) -> str:
        """Numbered reports, newest last."""
        return f"{self.lib}/reports"

    @property
    def manifest(self) -> str:
        """What the last hold held, and where it stood; on disk, and so in the snapshot of that disk."""
        return f"{self.lib}/manifest.json"

    @property
    def answers(self) -> str:
        """On disk too: a folder of the answers that releasing what is outstanding needs."""
        return f"{self.lib}/answers"

    @property
    def outstanding(self) -> str:
        """On disk, so that it survives a reboot: what must be released if we are lost."""
        return f"{self.lib}/outstanding.json"


def paths(environ: os._Environ[str] | dict[str, str] | None = None) -> Paths:
    """The folders in force, by ``STILLFRAME_PREFIX`` (absolute, or absent)."""
    prefix = (os.environ if environ is None else environ).get(PREFIX_VARIABLE, "").rstrip("/")
    return Paths(
        run=f"{prefix}/run/stillframe",
        lib=f"{prefix}/var/lib/stillframe",
        log=f"{prefix}/var/log/stillframe",
    )
