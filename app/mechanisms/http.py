"""``http``: requests to an application's own HTTP interface, on a connection that is kept open.

HTTP/1.1 over TCP or a Unix socket; TLS where this build has it. The name is resolved and the connection
made before the hold. Servers close idle connections when they like: then the next request makes a new one
to the same address, and only ``identity`` can prove that the same server answers.

Source: RFC 9110 (methods, status codes); the messages themselves are of app.host.wire.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from app.errors import HostUnfit
from app.host.wire import Garbled, Wire
from app.masking import shorten
from app.mechanisms import ConnectionLost, Register, StepFailed, TimedOut, Waiter
from app.plan import Options, Step

OUTLIVES = True
"""What a request changes stays so when its connection ends."""

_HEADERS = {
    "type": "object",
    "propertyNames": {"pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"},
    "additionalProperties": {"type": "string"},
}


def _question(description: str) -> dict[str, object]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["path"],
        "properties": {
            "path": {"type": "string", "description": "path of a GET"},
            "pattern": {
                "type": "string",
                "format": "regex",
                "description": "regular expression: what it matches counts (its groups, if it has any)",
            },
        },
        "description": description,
    }


OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["url"],
    "properties": {
        "url": {
            "type": "string",
            "pattern": r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?$",
            "description": "scheme, host and port, such as http://127.0.0.1:2379",
        },
        "socket": {
            "type": "string",
            "pattern": "^(/.*)?$",
            "description": "full path of a Unix socket that is connected to in place of the host",
        },
        "ca": {
            "type": "string",
            "pattern": "^(/.*)?$",
            "description": "full path of the certificates (PEM) that sign the server's; absent: the system's",
        },
        "headers": {**_HEADERS, "description": "headers of every request"},
        "identity": _question("what names the running server, such as its id and start time"),
        "version": _question("what says the server's version; its first number counts"),
    },
}

STEP_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "method": {
            "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            "description": "absent: GET",
        },
        "path": {"type": "string", "minLength": 1, "description": "path and query, percent-encoded"},
        "headers": {**_HEADERS, "description": "further headers"},
        "body": {"type": "string", "description": "what is sent; a brace of JSON is written twice"},
        "status": {
            "type": "array",
            "items": {"type": "integer", "minimum": 200, "maximum": 599},
            "minItems": 1,
            "description": "status codes that mean success; absent: 200 to 299",
        },
    },
}

_URL = re.compile(r"(https?)://(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?/?")
_PATH = re.compile(r"/[!-~]*")
_FRAMING = frozenset({"connection", "content-length", "transfer-encoding"})


class HttpConnection:
    """A connection to one server, opened again where the server closes it."""

    def __init__(self, options: Options, waiter: Waiter, deadline: float) -> None:
        self._options = options
        self._waiter = waiter
        match = _URL.fullmatch(options["url"])
        if match is None:
            raise HostUnfit(f"{options['url']!r} is no address", "such as http://127.0.0.1:2379")
        scheme, literal, name, port = match.groups()
        self._host = literal or name
        self._authority = options["url"].rstrip("/").partition("//")[2]
        self._tls = _tls_context(options.get("ca", "")) if scheme == "https" else None
        self._address = self._resolve(int(port or (443 if self._tls else 80)))
        self._wire: Wire | None = None
        self._reopened = False
        self.identity = ""
        self.version: int | None = None
        try:
            self._open(deadline)
            if options.get("identity"):
                self.identity = self._learn(options["identity"], deadline)
            if options.get("version"):
                digits = re.search(r"\d+", said := self._learn(options["version"], deadline))
                if digits is None:
                    raise StepFailed(f"the server's version is no number: {shorten(said)!r}")
                self.version = int(digits.group())
        except BaseException:
            self.kill()
            raise
        self._reopened = False

    def perform(self, step: Step, deadline: float) -> str:
        """Send one request; its answer is the body."""
        do = step.do
        method, path = do.get("method", "GET"), do["path"]
        status, text = self._request(method, path, do.get("headers", {}), do.get("body"), deadline)
        good = status in do["status"] if do.get("status") else 200 <= status <= 299
        if not good:
            raise StepFailed(f"{method} {path}: status {status}: {shorten(text)}")
        return text

    def prove(self, deadline: float) -> None:
        """Ask the server who it is; without ``identity`` the connection itself must be the first one."""
        if self._options.get("identity"):
            now = self._learn(self._options["identity"], deadline)
            if now != self.identity:
                raise ConnectionLost(f"the server was {shorten(self.identity)!r} and is now {shorten(now)!r}")
        elif self._reopened or self._is_closed():
            raise ConnectionLost(
                "the server closed the connection, and without identity any server may have answered since"
            )

    def lost(self) -> int | None:
        """The connection, where it is the only proof. TLS may send something unasked."""
        if self._wire is None or self._tls is not None or self._options.get("identity"):
            return None
        return self._wire.link.fileno()

    def complaint(self) -> str:
        """How the connection was lost."""
        return "the server closed the connection"

    def close(self, deadline: float) -> None:
        """Close the connection."""
        self.kill()

    def kill(self) -> None:
        """Close the connection."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    # -- connecting ---------------------------------------------------------------------------

    def _resolve(self, port: int) -> tuple[int, Any]:
        """Family and address, looked up once."""
        path = self._options.get("socket", "")
        if path:
            return socket.AF_UNIX, path
        try:
            found = socket.getaddrinfo(self._host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise StepFailed(f"{self._host}: {error.strerror or error}") from None
        # A server on this machine listens on 127.0.0.1 more often than on ::1.
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        return found[0][0], found[0][4]

    def _open(self, deadline: float) -> None:
        """Connect, with TLS if that is asked for. Raises StepFailed, Abandoned."""
        family, address = self._address
        wire = Wire(socket.socket(family, socket.SOCK_STREAM), self._wait)
        try:
            wire.link.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                wire.link.connect(address)
            self._wait(wire.link.fileno(), deadline, True)
            number = wire.link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))
            if self._tls is not None:
                secured = self._tls.wrap_socket(
                    wire.link, server_hostname=self._host, do_handshake_on_connect=False
                )
                wire.link = secured
                wire.patiently(secured.do_handshake, deadline)
        except TimedOut:
            wire.close()
            raise TimedOut(f"{self._authority}: no connection in the time allowed") from None
        except OSError as error:
            wire.close()
            raise StepFailed(f"{self._authority}: {_reason(error)}") from None
        except BaseException:
            wire.close()
            raise
        self._wire, self._reopened = wire, True

    def _wait(self, descriptor: int, deadline: float, write: bool) -> None:
        self._waiter.wait(descriptor, deadline, write=write)

    def _is_closed(self) -> bool:
        """Whether the other side has closed; one that speaks unasked counts as closed too."""
        if self._wire is None:
            return True
        return self._tls is None and not self._wire.is_quiet()

    # -- asking -------------------------------------------------------------------------------

    def _learn(self, question: Mapping[str, str], deadline: float) -> str:
        status, text = self._request("GET", question["path"], {}, None, deadline)
        if not 200 <= status <= 299:
            raise StepFailed(f"GET {question['path']}: status {status}: {shorten(text)}")
        if not question.get("pattern"):
            return text
        match = re.search(question["pattern"], text, re.MULTILINE)
        if match is None:
            raise StepFailed(
                f"GET {question['path']}: answered {shorten(text)!r}, "
                f"which does not match {question['pattern']!r}"
            )
        return " ".join(group or "" for group in match.groups()) or match.group()

    def _request(
        self, method: str, path: str, headers: Mapping[str, str], body: str | None, deadline: float
    ) -> tuple[int, str]:
        """Status and body of one request. Raises StepFailed, Abandoned."""
        data = self._message(method, path, headers, body)
        if self._is_closed():
            self.kill()
            try:
                self._open(deadline)
            except StepFailed as error:
                raise ConnectionLost(str(error)) from None
        assert self._wire is not None
        stays = False
        try:
            answer = self._wire.ask(method, data, deadline)
            stays = answer.stays
        except TimedOut:
            raise TimedOut(f"{method} {path}: no answer in the time allowed") from None
        except Garbled as error:
            raise StepFailed(f"{method} {path}: {error}") from None
        except EOFError as error:
            raise ConnectionLost(f"{method} {path}: {error}") from None
        except OSError as error:
            raise ConnectionLost(f"{method} {path}: {_reason(error)}") from None
        finally:
            if not stays:
                self.kill()
        return answer.status, answer.body.decode(errors="replace").strip()

    def _message(self, method: str, path: str, headers: Mapping[str, str], body: str | None) -> bytes:
        if not _PATH.fullmatch(path):
            raise StepFailed(f"{path!r} is no path: it begins with / and is percent-encoded")
        lines = {"host": self._authority, "user-agent": "stillframe", "accept": "*/*"}
        for name, value in {**self._options.get("headers", {}), **headers}.items():
            if name.lower() in _FRAMING or any(not c.isprintable() for c in value):
                raise StepFailed(f"the header {name!r} cannot be sent: its name or its value is not allowed")
            lines[name.lower()] = value
        content = (body or "").encode()
        if body is not None or method in ("POST", "PUT", "PATCH"):
            lines["content-length"] = str(len(content))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


def connect(
    options: Options, steps: Sequence[Step], waiter: Waiter, register: Register, deadline: float
) -> HttpConnection:
    """Connect, and learn who the server is and its version."""
    return HttpConnection(options, waiter, deadline)


def _tls_context(ca: str) -> Any:
    """What checks the server's certificate and name. Raises HostUnfit where this build has no TLS."""
    try:
        # By name, so that no build takes it along unasked: it is larger than all of ours.
        ssl = importlib.import_module("ssl")
    except ImportError:
        raise HostUnfit(
            "this build of app has no TLS", "use http on 127.0.0.1 or a Unix socket, or a client program"
        ) from None
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise HostUnfit(f"{ca}: {_reason(error)}", "a file of certificates in PEM form") from None


def _reason(error: OSError) -> str:
    """What went wrong, in the system's words."""
    verified = getattr(error, "verify_message", "")
    known = os.strerror(error.errno) if isinstance(error.errno, int) and not verified else ""
    return str(verified or error.strerror or known or error)
