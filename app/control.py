"""How a script of the framework's tells the holder to release: two FIFOs in our private folder.

The script opens ``answer``, writes ``release`` (a pre-script that failed: ``abandon``) to ``control``
and reads one line: an exit status and words for its log. Only the holder keeps ``answer`` open for
writing, so that the script's read ends the moment the holder dies.
"""

from __future__ import annotations

import contextlib
import os

from app.paths import Paths
from app.text import printable


class Server:
    """The holder's end."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        for path in (paths.control, paths.answer):
            _remove(path)
            os.mkfifo(path, 0o600)
        self.descriptor = os.open(paths.control, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._answer = os.open(paths.answer, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def receive(self) -> set[str]:
        """The words that were written since the last call."""
        try:
            return set(os.read(self.descriptor, 4096).decode(errors="replace").split())
        except BlockingIOError:
            return set()

    def answer(self, status: int, words: str) -> None:
        """One printable line for whoever reads; kept by the kernel for a reader that has opened already."""
        line = f"{status} {printable(' '.join(words.split()))}".encode()[:4000]
        with contextlib.suppress(OSError):
            # Whole, with what ends it: the script takes a line without end for no answer.
            os.write(self._answer, line + b"\n")

    def close(self) -> None:
        """Remove the FIFOs, then close them: who comes later finds none and asks the binary."""
        remove(self._paths)
        os.close(self.descriptor)
        os.close(self._answer)


def ask(paths: Paths, word: str) -> tuple[int, str] | None:
    """Tell the holder a word, as the scripts do: its exit status and words, None if none answers."""
    try:
        control = os.open(paths.control, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        # For reading and writing first, which never blocks; then for reading alone, so that a holder
        # that dies ends the read.
        both = os.open(paths.answer, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        answer = os.open(paths.answer, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.close(both)
        os.write(control, f"{word}\n".encode())
    except OSError:
        return None
    finally:
        os.close(control)
    with os.fdopen(answer, encoding="utf-8", errors="replace") as file:
        status, _, words = file.readline().strip().partition(" ")
    return (int(status), words) if status.isdigit() else None


def remove(paths: Paths) -> None:
    """Remove FIFOs that a dead holder may have left."""
    _remove(paths.control)
    _remove(paths.answer)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
