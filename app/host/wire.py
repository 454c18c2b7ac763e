"""HTTP/1.1 on one connection: a request out, its answer back, bounded in size and in time.

Small on purpose: what runs during a hold stays small. Sources: RFC 9112, sections 2 to 7 and 9.
"""

from __future__ import annotations

import functools
import re
import select
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

LARGEST_ANSWER = 1 << 20
"""Bytes of a body."""

LARGEST_HEAD = 1 << 16
"""Bytes of a status line with its headers, and of a trailer."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?")

Wait = Callable[[int, float, bool], None]
"""Returns when a descriptor is readable, or writable (True); raises what it likes past the deadline."""

Result = TypeVar("Result")


class Garbled(Exception):
    """The answer is no HTTP/1.1, or larger than we read; in words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``stays``: the connection can be used again."""

    status: int
    body: bytes
    stays: bool


class Wire:
    """One open connection. ``link`` does not block; it may be one of TLS (of the module ssl)."""

    def __init__(self, link: socket.socket, wait: Wait) -> None:
        self.link = link
        self._wait = wait
        self._buffer = bytearray()

    def close(self) -> None:
        """Close the connection."""
        self.link.close()

    def is_quiet(self) -> bool:
        """Whether nothing came unasked: the end of the connection is such a thing."""
        return not select.select([self.link], [], [], 0)[0]

    def ask(self, method: str, data: bytes, deadline: float) -> Answer:
        """Send a whole message, and read its answer.

        Raises Garbled, EOFError, OSError, and what ``wait`` raises.
        """
        while data:
            sent = self.patiently(functools.partial(self.link.send, data), deadline, write=True)
            data = data[sent:]
        while True:
            version, status, headers = self._head(deadline)
            if status >= 200:
                break
        stays = version == b"HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise Garbled(f"the answer is encoded as {headers['transfer-encoding'][:100]}")
            body = self._chunks(deadline)
        elif "content-length" in headers:
            length = headers["content-length"]
            if not re.fullmatch(r"\d{1,15}", length):
                raise Garbled(f"the answer's length is {length[:100]!r}")
            body = self._take(int(length), deadline)
        else:
            body, stays = self._rest(deadline), False
        return Answer(status, body, stays)

    def patiently(self, act: Callable[[], Result], deadline: float, *, write: bool = False) -> Result:
        """Do what may have to wait for the other side. Raises OSError, what ``wait`` raises."""
        while True:
            try:
                return act()
            except BlockingIOError:
                self._wait(self.link.fileno(), deadline, write)
            except OSError as error:
                # By name: ssl may not be there, and is not imported for those who need none.
                wants = {"SSLWantReadError": False, "SSLWantWriteError": True}.get(type(error).__name__)
                if wants is None:
                    raise
                self._wait(self.link.fileno(), deadline, wants)

    def _head(self, deadline: float) -> tuple[bytes, int, Mapping[str, str]]:
        first = self._line(deadline)
        match = _STATUS.fullmatch(first)
        if match is None:
            raise Garbled(f"answered {first[:100].decode(errors='replace')!r}, which is no HTTP/1.1")
        headers: dict[str, str] = {}
        for line in self._lines(deadline, "headers"):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return first[:8], int(match.group(1)), headers

    def _lines(self, deadline: float, what: str) -> list[bytes]:
        """The lines up to an empty one."""
        lines: list[bytes] = []
        size = 0
        while line := self._line(deadline):
            lines.append(line)
            size += len(line)
            if size > LARGEST_HEAD:
                raise Garbled(f"the answer's {what} are over {LARGEST_HEAD} bytes")
        return lines

    def _line(self, deadline: float) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LARGEST_HEAD:
                raise Garbled(f"a line of the answer is over {LARGEST_HEAD} bytes")
            self._more(deadline)
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        return line

    def _take(self, length: int, deadline: float) -> bytes:
        if length > LARGEST_ANSWER:
            raise Garbled(f"the answer is over {LARGEST_ANSWER} bytes")
        while len(self._buffer) < length:
            self._more(deadline)
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    def _chunks(self, deadline: float) -> bytes:
        body = bytearray()
        while True:
            words = self._line(deadline).partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", words):
                raise Garbled(f"the answer has a chunk of length {words[:100].decode(errors='replace')!r}")
            length = int(words, 16)
            if length == 0:
                self._lines(deadline, "trailers")
                return bytes(body)
            if len(body) + length > LARGEST_ANSWER:
                raise Garbled(f"the answer is over {LARGEST_ANSWER} bytes")
            body += self._take(length, deadline)
            self._line(deadline)

    def _rest(self, deadline: float) -> bytes:
        """All up to the end of the connection."""
        try:
            while True:
                self._more(deadline)
                if len(self._buffer) > LARGEST_ANSWER:
                    raise Garbled(f"the answer is over {LARGEST_ANSWER} bytes")
        except EOFError:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data

    def _more(self, deadline: float) -> None:
        data = self.patiently(lambda: self.link.recv(1 << 16), deadline)
        if not data:
            raise EOFError("the server closed the connection without a whole answer")
        self._buffer += data
