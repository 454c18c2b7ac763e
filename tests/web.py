"""A real HTTP server, Python's own, that does as a test wants."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Handler = http.server.BaseHTTPRequestHandler


class Web:
    """A running server. ``answers``: what is done for a path; others get 404."""

    def __init__(self, server: socketserver.BaseServer, url: str) -> None:
        self.server = server
        self.url = url
        self.answers: dict[str, Callable[[Handler], object]] = {}
        self.seen: list[tuple[str, str, dict[str, str], str]] = []
        self.links: list[socket.socket] = []
        self.over = threading.Event()

    def says(self, path: str, text: str, status: int = 200, **headers: str) -> None:
        """Answer so, with a length."""

        def answer(handler: Handler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(text.encode())))
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(text.encode())

        self.answers[path] = answer

    def sends(self, path: str, data: bytes) -> None:
        """Answer with exactly these bytes."""
        self.answers[path] = lambda handler: handler.wfile.write(data)

    def hangs(self, path: str) -> None:
        """Answer never."""
        self.answers[path] = lambda handler: self.over.wait(30)

    def drop(self) -> None:
        """Close every connection; new ones are taken."""
        for link in self.links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self.links.clear()

    def stop(self) -> None:
        """Take no more connections, and close all."""
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.drop()


@contextlib.contextmanager
def web(unix: Path | None = None, certificate: Path | None = None) -> Iterator[Web]:
    """A server on 127.0.0.1 or on a Unix socket; with TLS if there is a certificate (PEM, with its key)."""

    class Answers(Handler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            made.links.append(self.request)
            super().setup()

        def do_any(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(length).decode()
            made.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            answer = made.answers.get(self.path)
            if answer is None:
                self.send_error(404)
            else:
                answer(self)
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
            pass

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Answers, f"do_{method}", Answers.do_any)

    class Tcp(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    class Unix(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        block_on_close = False

        def get_request(self) -> tuple[Any, Any]:
            return super().get_request()[0], ("unix", 0)

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server: socketserver.BaseServer
    if unix is not None:
        server, url = Unix(str(unix), Answers), "http://localhost"
    else:
        tcp = Tcp(("127.0.0.1", 0), Answers)
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            tcp.socket = context.wrap_socket(tcp.socket, server_side=True)
            scheme = "https"
        server, url = tcp, f"{scheme}://127.0.0.1:{tcp.server_address[1]}"
    made = Web(server, url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.stop()
        thread.join(5)
