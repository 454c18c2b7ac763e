"""Holds the binary against the source tree: same answers, same files, byte for byte.

python build/smoke.py dist/app
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.cli.commands import COMMANDS  # noqa: E402 # the tree that this file stands in

TREE: list[str | Path] = [sys.executable, "-m", "app"]

# What a shipped policy needs before it can be compiled: settings without a default, by their type.
VALUES = {
    "string": '"orders"',
    "path": '"/srv/it\'s/ümlaut"',
    "paths": '["/var/lib/it\'s/orders.db", "/srv/ümlaut.db"]',
    "strings": '["orders.service"]',
    "integer": "1",
    "boolean": "true",
}


class Smoke:
    """Runs both and keeps count; ``wrong`` names what differed."""

    def __init__(self, binary: Path, scratch: Path) -> None:
        self.binary = binary
        self.scratch = scratch
        self.compared = 0
        self.wrong: list[str] = []

    def same(self, *arguments: str | Path) -> int:
        """Compare status, stdout and stderr of one command line; the tree's status."""
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(self._run, command, arguments) for command in (TREE, [self.binary])]
        tree, frozen = (run.result() for run in runs)
        self.compared += 1
        if tree != frozen:
            said = "".join(
                f"\n  {which}: {str(answer)[-600:]}" for which, answer in (("tree", tree), ("binary", frozen))
            )
            self.wrong.append(f"app {' '.join(map(str, arguments))}{said}")
        return tree[0]

    def same_files(self, name: str, policies: list[Path]) -> None:
        """Compare what both compile: names, modes, bytes."""
        written: dict[str, list[tuple[str, int, bytes]]] = {}
        commands: dict[str, list[str | Path]] = {"tree": TREE, "binary": [self.binary]}
        for which, command in commands.items():
            root = self.scratch / "image"
            root.mkdir()
            status, _, stderr = self._run(
                command, ("compile", *policies, "--root", root, "--out", "/etc/azure")
            )
            if status:
                self.wrong.append(f"{which}: compiling {name} ended with {status}: {stderr}")
            files = sorted(path for path in root.rglob("*") if path.is_file())
            written[which] = [
                (str(f.relative_to(root)), stat.S_IMODE(f.stat().st_mode), f.read_bytes()) for f in files
            ]
            shutil.rmtree(root, ignore_errors=True)
        self.compared += 1
        if written["tree"] != written["binary"] or not written["tree"]:
            names = {which: [entry[:2] for entry in entries] for which, entries in written.items()}
            self.wrong.append(f"compiled files of {name} differ: {names}")

    def _run(self, command: Sequence[str | Path], arguments: Sequence[str | Path]) -> tuple[int, str, str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("STILLFRAME")}
        environ |= {
            "PYTHONPATH": str(ROOT),
            "STILLFRAME_PREFIX": str(self.scratch / "prefix"),
            "COLUMNS": "100",
        }
        done = subprocess.run(
            list(map(str, [*command, *arguments])),
            env=environ,
            cwd=self.scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


def operator_policy(scratch: Path, name: str, extra: str = "") -> Path:
    """A policy of an operator's own that extends a shipped one."""
    declared = tomllib.loads((ROOT / f"policies/{name}.toml").read_text(encoding="utf-8")).get("settings", {})
    lines = [
        f"{key} = {VALUES[one['type']]}\n"
        for key, one in declared.items()
        if isinstance(one, dict) and "default" not in one
    ]
    settings = f"[settings]\n{''.join(lines)}" if lines else ""
    path = scratch / f"{name}.toml"
    path.write_text(
        f'version = 1\nname = "smoke-{name}"\nextends = "{name}"\n{settings}{extra}', encoding="utf-8"
    )
    return path


def highest_glibc(binary: Path) -> str:
    """The newest libc that the executable itself asks for; in a release there is no other object inside."""
    listed = subprocess.run(["objdump", "-T", binary], capture_output=True, text=True, check=True).stdout
    versions = [tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([0-9.]+)", listed)]
    return f"GLIBC_{'.'.join(map(str, max(versions, default=())))}"


def main(binary: Path) -> int:
    """Run every comparison; the exit status."""
    with tempfile.TemporaryDirectory(prefix="stillframe-smoke-") as folder:
        scratch = Path(folder)
        smoke = Smoke(binary.absolute(), scratch)
        for arguments in ([], ["--help"], ["--version"], ["nonsense"], ["schema"], ["schema", "--json"]):
            smoke.same(*arguments)
        for command in COMMANDS:
            smoke.same(command, "--help")
            smoke.same(command, "--no-such-option")
        shipped = sorted(path.stem for path in (ROOT / "policies").glob("*.toml"))
        policies = [operator_policy(scratch, name) for name in shipped]
        for name, policy in zip(shipped, policies, strict=True):
            smoke.same("validate", policy)
            smoke.same("explain", policy)
            smoke.same_files(name, [policy])
        smoke.same_files("all of them", policies)
        # Providers and mechanisms are found by looking: what the tree finds, the binary must find.
        for part in ("snapshot", "mechanisms"):
            for module in sorted((ROOT / "app" / part).glob("[a-z]*.py")):
                word = module.stem.replace("_", "-")
                if part == "snapshot":
                    body = f'[snapshot]\nprovider = "{word}"\n'
                else:
                    body = f'[[quiesce]]\nmechanism = "{word}"\n'
                smoke.same("validate", operator_policy(scratch, "filesystem", body))
        smoke.same(
            "validate", operator_policy(scratch, "filesystem", 'nonsense = 1\n[freeze]\nenabled = "x"\n')
        )
    for what in smoke.wrong:
        print(f"smoke: {what}", file=sys.stderr)
    size = binary.stat().st_size / 1e6
    if shutil.which("objdump"):
        print(f"smoke: the executable's highest symbol version is {highest_glibc(binary)}")
    print(f"smoke: {smoke.compared} comparisons, {len(smoke.wrong)} differ, {binary} is {size:.1f} MB")
    return 1 if smoke.wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
