"""A server's process in the foreground, as the server's user, and a folder for its socket and log."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def private_folder(name: str, user: str) -> Iterator[Path]:
    """An empty folder of that user's with a short path: a socket's whole path has room for 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix=f"sf-{name}-", dir="/tmp"))
    try:
        shutil.chown(folder, user, user)
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(
    argv: Sequence[str | Path],
    user: str,
    log: Path,
    environ: Mapping[str, str] | None = None,
    cwd: str | Path = "/",
    seconds: float = 30,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of that user's for as long as the context lasts; SIGTERM ends it, SIGKILL after ``seconds``.

    What it prints is appended to ``log``.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(map(str, argv)),
            user=user,
            group=user,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **(environ or {})},
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def wait_for(
    answer: Callable[[], object],
    process: subprocess.Popen[bytes],
    log: Path,
    errors: tuple[type[Exception], ...],
    seconds: float = 60,
) -> None:
    """Wait until ``answer`` raises none of ``errors``. Raises AssertionError, with the log's end."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            answer()
            return
        except errors as error:
            reason = str(error)
        said = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        assert process.poll() is None, f"ended with {process.returncode}: {said}"
        assert time.monotonic() < give_up, f"{reason}: {said}"
        time.sleep(0.02)
