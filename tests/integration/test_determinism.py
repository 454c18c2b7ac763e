"""Same policies, same bytes: whatever the folder, the clone, the locale, the umask or the hash seed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

POLICY = """\
version = 1
name = "orders"
extends = "postgresql"
after = ["db"]
[settings]
database = "Ördérs"
[freeze]
skip = ["/mnt/é", "/mnt/a"]
[framework]
app_name = "Zürich"
"""
DATABASE = (
    'version = 1\nname = "db"\nextends = "sqlite"\n[settings]\ndatabases = ["/srv/b.db", "/srv/a.db"]\n'
)

ENVIRONMENTS = (
    {"LC_ALL": "C", "PYTHONHASHSEED": "0"},
    {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"},
    {"LC_ALL": "POSIX", "PYTHONHASHSEED": "4711", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {
        "LC_ALL": "de_DE.ISO-8859-1",
        "LANG": "de_DE",
        "PYTHONHASHSEED": "99",
        "COLUMNS": "20",
        "HOME": "/nowhere",
    },
)


def compile_in(
    clone: Path, cwd: Path, policies: list[str], out: Path, number: int
) -> dict[str, tuple[int, str]]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(clone), **ENVIRONMENTS[number]}
    out.mkdir(mode=0o755)
    subprocess.run(
        [sys.executable, "-m", "app", "compile", *policies, "--root", str(out)],
        cwd=cwd,
        env=environment,
        umask=(0o022, 0o777, 0o000, 0o077)[number],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return {
        str(path.relative_to(out)): (
            path.stat().st_mode & 0o7777,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in out.rglob("*")
        if path.is_file()
    }


@pytest.mark.integration
def test_same_policies_same_bytes(tmp_path: Path) -> None:
    # Below tmp_path as pytest makes it, every folder on the way is ours alone.
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "app", clone / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "policies", clone / "policies")
    here, there = tmp_path / "here", tmp_path / "there é"
    for folder in (here, there):
        folder.mkdir()
        (folder / "orders.toml").write_text(POLICY, encoding="utf-8")
        (folder / "db.toml").write_text(DATABASE, encoding="utf-8")
    calls = [
        (ROOT, here, ["orders.toml", "db.toml", "filesystem"]),
        (clone, there, ["./filesystem/../orders.toml", "filesystem", "db.toml"]),
        (clone, tmp_path, ["filesystem", "here/db.toml", str(there / "orders.toml")]),
        (ROOT, Path("/"), [str(here / "orders.toml"), str(there / "db.toml"), "filesystem"]),
    ]
    (there / "filesystem").mkdir()
    results = [
        compile_in(tree, cwd, policies, tmp_path / f"out{number}", number)
        for number, (tree, cwd, policies) in enumerate(calls)
    ]
    assert len(results[0]) == 6
    assert all(result == results[0] for result in results[1:])


@pytest.mark.integration
def test_check_sees_one_byte(tmp_path: Path) -> None:
    out = tmp_path / "image"
    compile_in(ROOT, tmp_path, ["filesystem"], out, 0)
    command = [sys.executable, "-m", "app", "compile", "filesystem", "--root", str(out), "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def check() -> int:
        return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode

    assert check() == 0
    plan = out / "etc/azure/stillframe/plan.json"
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    assert check() == 1
