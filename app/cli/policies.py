"""How a command reads policies: what root acts on, nobody but root may have written (law 6)."""

from __future__ import annotations

import errno
import os

from app.cli.output import tell
from app.errors import HostUnfit
from app.host import trust
from app.policy.source import LARGEST, read_file


def read_trusted(path: str) -> bytes:
    """Read a policy; root reads only what nobody but root could have written. Raises HostUnfit, OSError."""
    if os.geteuid() != 0:
        return read_file(path)
    place = os.path.abspath(path)
    descriptor, flaws = trust.examine(place)
    if descriptor >= 0:
        with open(descriptor, "rb") as file:
            if flaws:
                raise _refusal(flaws[0])
            return file.read(LARGEST + 1)
    flaw = flaws[-1]
    if flaw.kind == trust.MISSING:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
    if flaw.kind == trust.TYPE:
        raise OSError(flaw.message)
    if flaw.kind == trust.LINK:
        raise HostUnfit(f"{flaw.path}: {flaw.message}", f"name the policy itself: {os.path.realpath(place)}")
    raise _refusal(flaw)


def read_with_warning(path: str) -> bytes:
    """Read a policy for an image, whoever wrote it; a warning where root reads what others could write.

    Raises OSError.
    """
    place = os.path.abspath(path)
    content = read_file(place)
    if os.geteuid() == 0:
        # As for a program, so that links are followed where they are trusted.
        for flaw in trust.findings(place, program=True):
            if flaw.kind in (trust.OWNER, trust.WRITABLE):
                words = f"{place}: others than root could have written it ({flaw.path}: {flaw.message})"
                tell(f"warning: {words}")
                break
    return content


def _refusal(flaw: trust.Flaw) -> HostUnfit:
    return HostUnfit(
        f"{flaw.path}: {flaw.message}",
        f"{flaw.repair} (what root acts on, nobody else may have written)",
    )
