"""A server of the tests' own, whose pause outlives whoever asked for it, and its control program.

``orders.py serve DATA NOTES SOCKET`` appends records to DATA, each synced, and notes each in NOTES as
``tests.ledger`` does. ``orders.py ctl SOCKET pause|status|resume`` talks to it. Stands alone: it is
started by its path, as whatever user a policy names.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import time

DRAIN = 0.1
"""Seconds that a pause takes, as it does where requests must end first."""


def serve(data: str, notes: str, address: str) -> None:
    """Write until killed, except while paused."""
    running = threading.Event()
    running.set()
    idle = threading.Lock()
    run_id = secrets.token_hex(4)
    threading.Thread(target=_write, args=(data, notes, running, idle), daemon=True).start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        os.chmod(address, 0o666)
        listener.listen()
        while True:
            asker, _ = listener.accept()
            with asker:
                word = asker.recv(64)
                if word == b"pause":
                    running.clear()
                    with idle:
                        time.sleep(DRAIN)
                elif word == b"resume":
                    running.set()
                state = "running" if running.is_set() else "paused"
                with contextlib.suppress(OSError):  # whoever asked was killed
                    asker.sendall(f"{state} {run_id}\n".encode())


def _write(data: str, notes: str, running: threading.Event, idle: threading.Lock) -> None:
    store = os.open(data, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    noted = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    number = 0
    while True:
        running.wait()
        with idle:
            if not running.is_set():
                continue
            number += 1
            sent = time.monotonic()
            os.write(store, f"{number}\n".encode())
            os.fdatasync(store)
            os.write(noted, f"{number} {sent:.6f} {time.monotonic():.6f}\n".encode())
        time.sleep(0.001)


def control(address: str, word: str) -> None:
    """Say one word to the server and print its answer."""
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(address)
        asker.sendall(word.encode())
        sys.stdout.write(asker.recv(64).decode())


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        control(*sys.argv[2:])
