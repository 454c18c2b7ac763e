"""The stand-in for mongod behind MongoDB's own protocol, so that a real mongosh can talk to it.

Sources: mongodb.com/docs/manual/reference/mongodb-wire-protocol (OP_MSG, OP_QUERY for the first hello),
bsonspec.org.
"""

from __future__ import annotations

import itertools
import json
import socket
import socketserver
import struct
import time
from typing import Any

from tests.standins.product import Link

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013

_numbers = itertools.count(1)


def decode(data: bytes) -> dict[str, Any]:
    """One BSON document."""
    return dict(_elements(data, array=False))


def _elements(data: bytes, *, array: bool) -> list[Any]:
    found: list[Any] = []
    at = 4
    while data[at]:
        kind = data[at]
        end = data.index(0, at + 1)
        name = data[at + 1 : end].decode()
        value, at = _value(kind, data, end + 1)
        found.append(value if array else (name, value))
    return found


def _value(kind: int, data: bytes, at: int) -> tuple[Any, int]:
    if kind in (0x03, 0x04):
        size = struct.unpack_from("<i", data, at)[0]
        part = data[at : at + size]
        return (_elements(part, array=True) if kind == 0x04 else decode(part)), at + size
    if kind in (0x02, 0x0D):
        size = struct.unpack_from("<i", data, at)[0]
        return data[at + 4 : at + 3 + size].decode(), at + 4 + size
    if kind == 0x05:
        size = struct.unpack_from("<i", data, at)[0]
        return data[at + 5 : at + 5 + size].hex(), at + 5 + size
    fixed = {0x01: "<d", 0x09: "<q", 0x10: "<i", 0x11: "<Q", 0x12: "<q"}
    if kind in fixed:
        return struct.unpack_from(fixed[kind], data, at)[0], at + struct.calcsize(fixed[kind])
    if kind == 0x08:
        return bool(data[at]), at + 1
    if kind == 0x07:
        return data[at : at + 12].hex(), at + 12
    return None, at


def encode(document: dict[str, Any]) -> bytes:
    """A BSON document. A ``bytes`` of 12 is an ObjectId; ``lockCount`` and such are 64 bits wide."""
    out = b"".join(_element(name, value) for name, value in document.items())
    return struct.pack("<i", len(out) + 5) + out + b"\0"


def _element(name: str, value: Any) -> bytes:
    key = name.encode() + b"\0"
    if isinstance(value, bool):
        return b"\x08" + key + bytes([value])
    if isinstance(value, bytes):
        return b"\x07" + key + value
    if isinstance(value, float):
        return b"\x01" + key + struct.pack("<d", value)
    if isinstance(value, int):
        return b"\x12" + key + struct.pack("<q", value)
    if isinstance(value, str):
        text = value.encode() + b"\0"
        return b"\x02" + key + struct.pack("<i", len(text)) + text
    if isinstance(value, dict):
        return b"\x03" + key + encode(value)
    if isinstance(value, list):
        return b"\x04" + key + encode({str(i): one for i, one in enumerate(value)})
    return b"\x0a" + key


class Wire(socketserver.ThreadingTCPServer):
    """A mongod on a port of 127.0.0.1, whose state is that of the stand-in at ``address``."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__(("127.0.0.1", 0), _Talk)
        self.address = address

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class _Talk(socketserver.BaseRequestHandler):
    server: Wire
    request: socket.socket

    def handle(self) -> None:
        link = Link(self.server.address)
        try:
            self._talk(link)
        finally:
            link.close()

    def _talk(self, link: Link) -> None:
        while (head := self._read(16)) is not None:
            size, number, _, code = struct.unpack("<iiii", head)
            body = self._read(size - 16)
            if body is None:
                return
            if code == OP_QUERY:
                start = body.index(0, 4) + 9
                answer = encode(self._answer(link, decode(body[start:])))
                packed = struct.pack("<iqii", 8, 0, 0, 1) + answer
                self._send(OP_REPLY, number, packed)
            elif code == OP_MSG:
                answer = encode(self._answer(link, decode(body[5:])))
                self._send(OP_MSG, number, struct.pack("<I", 0) + b"\0" + answer)

    def _read(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                more = self.request.recv(size - len(data))
            except OSError:
                return None
            if not more:
                return None
            data += more
        return data

    def _send(self, code: int, asked: int, body: bytes) -> None:
        head = struct.pack("<iiii", len(body) + 16, next(_numbers), asked, code)
        self.request.sendall(head + body)

    def _answer(self, link: Link, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        if name in ("hello", "isMaster", "ismaster"):
            return {**_hello(link), "ok": 1.0}
        if name in ("ping", "endSessions"):
            return {"ok": 1.0}
        if name == "buildInfo":
            return {
                "version": "7.0.14",
                "gitVersion": "x",
                "versionArray": [7, 0, 14, 0],
                "modules": [],
                "ok": 1.0,
            }
        plain = {k: v for k, v in command.items() if not k.startswith("$") and k != "lsid"}
        answer = link.ask(say=json.dumps(plain))
        found: dict[str, Any] = (
            json.loads(answer["text"]) if "text" in answer else {"ok": 0, "errmsg": "down"}
        )
        return {**found, "ok": float(found["ok"])}


def _hello(link: Link) -> dict[str, Any]:
    found = json.loads(link.ask(say='{"hello": 1}')["text"])
    run = found["topologyVersion"]["processId"].encode()[-12:].rjust(12, b"0")
    return {
        "helloOk": True,
        "ismaster": found["isWritablePrimary"],
        "isWritablePrimary": found["isWritablePrimary"],
        "topologyVersion": {"processId": run, "counter": 0},
        "maxBsonObjectSize": 16 << 20,
        "maxMessageSizeBytes": 48000000,
        "maxWriteBatchSize": 100000,
        "localTime": int(time.time()),
        "logicalSessionTimeoutMinutes": 30,
        "connectionId": 1,
        "minWireVersion": 0,
        "maxWireVersion": 21,
        "readOnly": False,
    }
