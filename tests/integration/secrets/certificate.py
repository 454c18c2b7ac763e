"""A certificate that signs itself, for servers and for clients alike."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ADDRESS = "127.5.4.32"
"""An address of this machine's alone, at which no other server listens."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two files in PEM; ``file`` is also the authority that has signed it."""

    file: Path
    key: Path


def missing() -> str:
    """What this machine lacks to make one; "" where nothing."""
    return "" if shutil.which("openssl") else "needs openssl"


def make(folder: Path, name: str, owner: str) -> Certificate:
    """One for ADDRESS whose CN is ``name``, and its key, which only ``owner`` may read."""
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{ADDRESS},DNS:localhost"]
    argv += ["-keyout", str(made.key), "-out", str(made.file)]
    subprocess.run(argv, check=True, capture_output=True)
    made.file.chmod(0o644)
    made.key.chmod(0o600)
    shutil.chown(made.key, owner)
    return made
