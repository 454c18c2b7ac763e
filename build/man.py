"""Writes what ``app install`` puts beside the binary below a folder, from the tree, for packagers.

python build/man.py STAGE [PATH [debian]]: man pages, completions, the units and the tmpfiles.d entry, for a
VM that keeps the executable at PATH (/usr/bin/app). Without the binary, so that a package for
another processor can be made here, and without the manifest: a package manager has its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app import deployment
from app.cli.commands import COMMANDS, group
from app.cli.completion import completions
from app.cli.manual import pages


def main(stage: str, binary: str = "/usr/bin/app", system: str = "") -> None:
    """Write every file; the mode is 644."""
    found = pages(group, COMMANDS, binary)
    scripts = completions(group, Path(binary).name)
    for file in deployment.companions(binary, found, scripts, debian=system == "debian"):
        path = Path(stage + file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)


if __name__ == "__main__":
    main(*sys.argv[1:])
