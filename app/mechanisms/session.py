"""``session``: a client program kept open and fed statements, each answer checked.

After every statement the client is made to print a line that begins with a mark nobody can guess;
all that comes before it is the answer. The proof of a hold is that the same session, by the name
the server gives it, answers at release: we never connect a second time.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence

from app.host import through
from app.host.private import PrivateFiles
from app.host.process import Program, end_group, wait_for_end
from app.masking import shorten
from app.mechanisms import ConnectionLost, Register, StepFailed, TimedOut, Waiter
from app.mechanisms.command import FILES, try_through
from app.plan import Options, Step

LARGEST_ANSWER = 1 << 20
"""Bytes. A statement of a recipe asks for a line or two."""

LETTING_GO = 0.8
"""Seconds for a client behind another program to be ended by its lifeline."""

_STRINGS = {"type": "array", "items": {"type": "string"}}

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["argv", "mark", "failed"],
    "properties": {
        "argv": {
            **_STRINGS,
            "minItems": 1,
            "description": "the client program and its arguments; it reads statements from stdin",
        },
        "user": {"type": "string", "description": "OS user as whom it runs; absent: root"},
        "environment": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "environment variables for it, besides PATH, LANG, HOME, USER and LOGNAME",
        },
        "through": {
            **_STRINGS,
            "description": "what stands before the client, such as podman exec --interactive NAME",
        },
        "mark": {
            "type": "string",
            "pattern": r"\{mark\}",
            "description": "a line that makes the client print a line beginning with {mark}",
        },
        "failed": {
            "type": "string",
            "format": "regex",
            "description": "regular expression: an answer that it matches is an error",
        },
        "ended": {
            "type": "string",
            "format": "regex",
            "description": "regular expression: output that it matches says that the session is over, "
            "whether or not the client goes on by itself",
        },
        "identity": {"type": "string", "description": "statement whose answer names the session"},
        "version": {
            "type": "string",
            "description": "statement whose answer is the server's version, a number",
        },
        "files": FILES,
        "login": {**_STRINGS, "description": "statements typed first of all, which may hold secrets"},
        "begin": {**_STRINGS, "description": "statements typed right after connecting"},
        "quit": {"type": "string", "description": "typed at the end; absent: end of input"},
    },
}

STEP_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["send"],
    "properties": {
        "send": {"type": "string", "minLength": 1, "description": "one statement"},
        "failed": {
            "type": "string",
            "format": "regex",
            "description": "instead of the session's: what is an error of this statement",
        },
    },
}


class SessionConnection:
    """A client program that is being talked to."""

    def __init__(self, options: Options, waiter: Waiter, register: Register, deadline: float) -> None:
        self._options = options
        self._waiter = waiter
        self._secret = f"stillframe-{secrets.token_hex(8)}"
        self._count = 0
        self._pending = b""
        self._lifeline: subprocess.Popen[bytes] | None = None
        argv, environment = tuple(options["argv"]), options.get("environment", {})
        self._name = argv[0]
        if options.get("through"):
            try_through(options["through"], options.get("user", ""), waiter, register, deadline)
            argv = through.session(options["through"], argv, environment, self._secret)
            environment = {}
        program = Program(argv, options.get("user", ""), environment)
        files = PrivateFiles(options.get("files", {}), program.account)
        try:
            program = program.placed(argv, files.placed)
            self._process = program.start(merge_errors=True, inherit=files.descriptors)
        finally:
            files.close()
        register(self._process.pid)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input = self._process.stdin.fileno()
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        self.identity = ""
        self.version: int | None = None
        try:
            if options.get("through"):
                self._hold_lifeline(register, deadline)
            for number, statement in enumerate(options.get("login", ()), 1):
                self._ask(statement, deadline, f"login, statement {number}")
            for statement in options.get("begin", ()):
                self._ask(statement, deadline)
            if options.get("identity"):
                self.identity = self._ask(options["identity"], deadline)
            if options.get("version"):
                self.version = _number(self._ask(options["version"], deadline))
        except BaseException:
            self.kill()
            raise

    def perform(self, step: Step, deadline: float) -> str:
        """Type one statement and return its answer."""
        return self._ask(step.do["send"], deadline, failed=step.do.get("failed", ""))

    def prove(self, deadline: float) -> None:
        """Ask the session for its name again."""
        if self._options.get("identity"):
            now = self._ask(self._options["identity"], deadline)
            if now != self.identity:
                raise ConnectionLost(f"the session was {self.identity!r} and is now {now!r}")
        elif self._process.poll() is not None:
            raise ConnectionLost(f"{self._name} has ended")

    def lost(self) -> int | None:
        """The client's output: silent between statements unless the client ends or complains."""
        return self._output

    def complaint(self) -> str:
        """What the client said unasked, or how it ended."""
        with contextlib.suppress(BlockingIOError):
            self._pending += os.read(self._output, 4096)
        return self._ending()

    def close(self, deadline: float) -> None:
        """Let the client leave in good order, then make sure that it has."""
        try:
            if self._options.get("quit"):
                os.write(self._input, self._options["quit"].encode() + b"\n")
        except OSError:
            pass
        assert self._process.stdin is not None
        self._process.stdin.close()
        if wait_for_end(self._process, min(deadline - time.monotonic(), 1.0)) and self._lifeline:
            assert self._lifeline.stdin is not None
            with contextlib.suppress(OSError, ValueError):
                self._lifeline.stdin.write(b"ended\n")
        self.kill()

    def kill(self) -> None:
        """SIGINT first, on which clients cancel the statement at the server, then SIGKILL."""
        if self._lifeline and self._lifeline.stdin:
            self._lifeline.stdin.close()
            wait_for_end(self._process, LETTING_GO)
            wait_for_end(self._lifeline, LETTING_GO)
            end_group(self._lifeline, signal.SIGKILL, grace=0)
        end_group(self._process, signal.SIGINT, grace=0.2)

    def _hold_lifeline(self, register: Register, deadline: float) -> None:
        """Start what ends the client behind another program, once it has said its number there."""
        words, user = self._options["through"], self._options.get("user", "")
        first = self._await(
            re.compile(rb"^" + self._secret.encode() + rb"-(\d+)\r?\n", re.MULTILINE), deadline, self._name
        )
        program = Program(through.lifeline(words, int(first.group(1))), user, {})
        self._lifeline = program.start()
        register(self._lifeline.pid)
        program.close()

    def _ask(self, statement: str, deadline: float, what: str = "", failed: str = "") -> str:
        """The answer to a statement; ``what`` it is called, ``failed`` shows that something went wrong."""
        what = what or shorten(statement)
        self._count += 1
        mark = f"{self._secret}-{self._count}"
        self._write(f"{statement}\n{self._options['mark'].replace('{mark}', mark)}\n".encode(), deadline)
        needle = re.compile(rb"^" + mark.encode() + rb".*\n", re.MULTILINE)
        found = self._await(needle, deadline, what)
        whole = found.string[: found.end()].decode(errors="replace")
        answer = found.string[: found.start()].decode(errors="replace").strip("\n")
        failed = failed or self._options["failed"]
        if re.search(failed.replace("{mark}", re.escape(mark)), whole, re.MULTILINE):
            raise StepFailed(f"{what}: {shorten(answer) or 'the client reports an error'}")
        return answer

    def _await(self, needle: re.Pattern[bytes], deadline: float, what: str) -> re.Match[bytes]:
        """Read until ``needle`` is found; what comes after it is kept."""
        while (found := needle.search(self._pending)) is None:
            self._read(deadline, what)
            self._heed_ending()
        self._pending = self._pending[found.end() :]
        return found

    def _write(self, data: bytes, deadline: float) -> None:
        while data:
            try:
                data = data[os.write(self._input, data) :]
            except BlockingIOError:
                self._waiter.wait(self._input, deadline, write=True)
            except (BrokenPipeError, ValueError):
                raise ConnectionLost(self._ending()) from None

    def _read(self, deadline: float, what: str) -> None:
        try:
            self._waiter.wait(self._output, deadline)
        except TimedOut:
            raise TimedOut(f"{what}: no answer in the time allowed") from None
        try:
            data = os.read(self._output, 65536)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionLost(self._ending())
        self._pending += data
        if len(self._pending) > LARGEST_ANSWER:
            raise StepFailed(f"{what}: the answer is over {LARGEST_ANSWER} bytes")

    def _heed_ending(self) -> None:
        """Raise ConnectionLost where the client says that its session is over: no mark need ever come."""
        ended = self._options.get("ended")
        if ended and (found := re.search(ended, self._pending.decode(errors="replace"), re.MULTILINE)):
            said = found.string[found.start() :].partition("\n")[0]
            raise ConnectionLost(f"{self._name} says: {shorten(said)}")

    def _ending(self) -> str:
        said = shorten(self._pending.decode(errors="replace"))
        time.sleep(0.01)
        status = self._process.poll()
        how = (
            f"{self._name} ended with status {status}"
            if status is not None
            else f"{self._name} closed its output"
        )
        return f"{how}: {said}" if said else how


def connect(
    options: Options, steps: Sequence[Step], waiter: Waiter, register: Register, deadline: float
) -> SessionConnection:
    """Start the client, make it ready, and learn the session's name and the server's version."""
    return SessionConnection(options, waiter, register, deadline)


def _number(answer: str) -> int:
    digits = re.match(r"\s*(\d+)", answer)
    if digits is None:
        raise StepFailed(f"the server's version is no number: {shorten(answer)!r}")
    return int(digits.group(1))
