"""``command``: a program run once, its exit status and its output checked.

What a command quiesces outlives the command, so a recipe that uses one says in ``recover`` what
to run when the hold is lost.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence

from app.host.process import Program, end_group
from app.mechanisms import Register, StepFailed, TimedOut, Waiter
from app.plan import Options, Step

LARGEST_OUTPUT = 1 << 20
"""Bytes of output that are kept; the rest is read and dropped."""

_STRINGS = {"type": "array", "items": {"type": "string"}}
_ENVIRONMENT = {"type": "object", "additionalProperties": {"type": "string"}}

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "user": {"type": "string", "description": "OS user as whom commands run; absent: root"},
        "environment": {**_ENVIRONMENT, "description": "environment variables of every command"},
    },
}

STEP_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["argv"],
    "properties": {
        "argv": {**_STRINGS, "minItems": 1, "description": "program and arguments; no shell is involved"},
        "user": {"type": "string", "description": "OS user for this step"},
        "environment": {**_ENVIRONMENT, "description": "further environment variables"},
        "stdin": {"type": "string", "description": "text given on standard input"},
        "exit": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 255},
            "minItems": 1,
            "description": "exit statuses that mean success; absent: 0",
        },
    },
}


class CommandConnection:
    """The programs of a recipe, looked up and checked before the hold."""

    identity = ""
    version: int | None = None

    def __init__(self, options: Options, steps: Sequence[Step], waiter: Waiter, register: Register) -> None:
        self._waiter = waiter
        self._register = register
        self._options = options
        mine = [step for step in steps if step.mechanism == "command"]
        self._programs = {self._key(step): _program(options, step) for step in mine}

    def perform(self, step: Step, deadline: float) -> str:
        """Run the step's program to its end and return what it printed on stdout."""
        known = self._programs.get(self._key(step))
        program = known.with_argv(tuple(step.do["argv"])) if known else _program(self._options, step)
        output, status = run(program, step.do.get("stdin", ""), self._waiter, self._register, deadline)
        if status not in tuple(step.do.get("exit", (0,))):
            raise StepFailed(
                f"{program.argv[0]} ended with status {status}: {' '.join(output.split())[-300:]}"
            )
        return output.strip()

    @staticmethod
    def _key(step: Step) -> tuple[object, ...]:
        """What was looked up before the hold: arguments may hold answers that came later."""
        environment = sorted(step.do.get("environment", {}).items())
        return (step.do["argv"][0], step.do.get("user"), *environment)

    def prove(self, deadline: float) -> None:
        """A command keeps nothing open; ``verify`` steps are its proof."""

    def lost(self) -> int | None:
        """Nothing is open, so nothing can be lost."""
        return None

    def close(self, deadline: float) -> None:
        """Nothing is open."""

    def kill(self) -> None:
        """Nothing is open."""


def run(program: Program, text: str, waiter: Waiter, register: Register, deadline: float) -> tuple[str, int]:
    """Run ``program`` to its end; (output, exit status or minus the signal).

    The whole process group is killed when the deadline passes or the asker gives up. A process
    that the program leaves behind is killed with it and cannot keep us waiting.
    """
    process = program.start(merge_errors=True)
    register(process.pid)
    assert process.stdin is not None and process.stdout is not None
    kept = bytearray()
    try:
        source = process.stdout.fileno()
        os.set_blocking(source, False)
        ending = os.pidfd_open(process.pid)
        try:
            if text:
                os.set_blocking(process.stdin.fileno(), False)
                _feed(process.stdin.fileno(), text.encode(), waiter, deadline)
            process.stdin.close()
            open_output = True
            while open_output and process.poll() is None:
                _either(waiter, source, ending, deadline)
                open_output = _drain(source, kept)
            if process.poll() is None:
                waiter.wait(ending, deadline)
            _drain(source, kept)
        finally:
            os.close(ending)
        status = process.wait()
    except TimedOut:
        raise TimedOut(f"{program.argv[0]} did not end in the time allowed") from None
    finally:
        end_group(process, signal.SIGTERM, grace=0.1)
    return kept.decode(errors="replace"), status


def _either(waiter: Waiter, source: int, ending: int, deadline: float) -> None:
    epoll = select.epoll()
    try:
        epoll.register(source, select.EPOLLIN)
        epoll.register(ending, select.EPOLLIN)
        waiter.wait(epoll.fileno(), deadline)
    finally:
        epoll.close()


def _drain(source: int, kept: bytearray) -> bool:
    """Read what is there; False at the end of the output."""
    while True:
        try:
            data = os.read(source, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        kept += data[: max(0, LARGEST_OUTPUT - len(kept))]


def _feed(target: int, data: bytes, waiter: Waiter, deadline: float) -> None:
    while data:
        try:
            data = data[os.write(target, data) :]
        except BlockingIOError:
            waiter.wait(target, deadline, write=True)
        except BrokenPipeError:
            return


def _program(options: Options, step: Step) -> Program:
    environment = {**options.get("environment", {}), **step.do.get("environment", {})}
    return Program(tuple(step.do["argv"]), step.do.get("user", options.get("user", "")), environment)


def connect(
    options: Options, steps: Sequence[Step], waiter: Waiter, register: Register, deadline: float
) -> CommandConnection:
    """Look up and check every program of the recipe, so that nothing is looked up in the hold."""
    return CommandConnection(options, steps, waiter, register)
