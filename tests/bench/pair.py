"""A compiled pair of scripts, run as the extension runs them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pair:
    """Its folder, and the prefix under which it runs: by sh, into pipes that nobody reads."""

    folder: Path
    prefix: Path

    def pre(self) -> None:
        """Hold."""
        self._finish(self._start("pre"), "pre")

    def post(self) -> float:
        """Release; CLOCK_MONOTONIC seconds at which the script was started. Returns once it has ended."""
        begun = time.monotonic()
        self._finish(self._start("post"), "post")
        return begun

    def event(self, name: str) -> float:
        """When the journal's last event of that name was."""
        lines = (self.prefix / "run/stillframe/journal").read_text(encoding="utf-8").splitlines()
        return max(float(e["t"]) for e in map(json.loads, lines) if e["event"] == name)

    def _start(self, which: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", f"{self.folder}/stillframe/{which}.sh"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "STILLFRAME_PREFIX": str(self.prefix)},
        )

    def _finish(self, process: subprocess.Popen[bytes], which: str) -> None:
        with process:
            status = process.wait(60)
        if status:
            log = self.prefix / f"var/log/stillframe/{which}.log"
            raise RuntimeError(f"{which}.sh ended with {status}: {log.read_text()[-1000:]}")


def compiled(command: str, policy: str, folder: Path) -> Pair:
    """Compile a policy as an operator does."""
    path = folder / "policy.toml"
    path.write_text(policy, encoding="utf-8")
    azure = folder / "azure"
    subprocess.run(
        [command, "compile", path, "--out", azure, "--binary", Path(command).absolute()],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return Pair(azure, folder / "prefix")
