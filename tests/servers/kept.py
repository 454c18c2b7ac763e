"""Where tests keep what is slow to have: servers of other systems and versions. ``make clean`` removes it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def kept() -> Path:
    """A folder that servers' own users can reach: ``.build/servers``, or else one under /var/tmp."""
    place = ROOT / ".build/servers"
    if not all(folder.stat().st_mode & 0o001 for folder in (ROOT, *ROOT.parents)):
        place = Path("/var/tmp/stillframe-servers")
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    return place
