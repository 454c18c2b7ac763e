"""``command``: a program run once, its exit status and its output checked.

What a command quiesces outlives the command, so a recipe that uses one says in ``recover`` what
to run when the hold is lost.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence

from app.host import through
from app.host.private import PrivateFiles
from app.host.process import Account, Program, end_group, wait_for_end
from app.masking import shorten_to_end
from app.mechanisms import Register, StepFailed, TimedOut, Waiter
from app.plan import Options, Step

LARGEST_OUTPUT = 1 << 20
"""Bytes of output that are kept; the rest is read and dropped."""

LETTING_GO = 0.5
"""Seconds for a program behind another one to be ended by the end of its input."""

_STRINGS = {"type": "array", "items": {"type": "string"}}
FILES = {
    "type": "object",
    "propertyNames": {"pattern": r"^[a-z_][a-z0-9_]*$"},
    "additionalProperties": {"type": "string"},
    "description": "private files: {its_name} in argv and environment is the path of one",
}
_ENVIRONMENT = {"type": "object", "additionalProperties": {"type": "string"}}

OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "user": {"type": "string", "description": "OS user as whom commands run; absent: root"},
        "environment": {**_ENVIRONMENT, "description": "environment variables of every command"},
        "through": {
            **_STRINGS,
            "description": "what stands before every command, such as podman exec --interactive NAME",
        },
        "stdin": {
            "type": "string",
            "description": "text on standard input of every command that has none of its own, such as a "
            "password that it asks for",
        },
        "files": FILES,
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

    def __init__(
        self, options: Options, steps: Sequence[Step], waiter: Waiter, register: Register, deadline: float
    ) -> None:
        self._waiter = waiter
        self._register = register
        self._options = options
        self._files: dict[int, PrivateFiles] = {}
        mine = [step for step in steps if step.mechanism == "command"]
        self._programs = {self._key(step): _program(options, step) for step in mine}
        if mine and options.get("through"):
            try_through(options["through"], options.get("user", ""), waiter, register, deadline)

    def perform(self, step: Step, deadline: float) -> str:
        """Run the step's program to its end and return what it printed on stdout."""
        program = self._programs.get(self._key(step)) or _program(self._options, step)
        files = self._private(program.account)
        program = program.placed(_argv(self._options, step), files.placed)
        name, text = step.do["argv"][0], _stdin(self._options, step)
        behind = name if self._options.get("through") else ""
        output, status = run(
            program, text, self._waiter, self._register, deadline, behind, files=files.descriptors
        )
        if status not in tuple(step.do.get("exit", (0,))):
            raise StepFailed(f"{name} ended with status {status}: {shorten_to_end(output)}")
        return output.strip()

    def _private(self, account: Account) -> PrivateFiles:
        """The private files as that user's."""
        if account.uid not in self._files:
            self._files[account.uid] = PrivateFiles(self._options.get("files", {}), account)
        return self._files[account.uid]

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
        """Nothing is open but descriptors."""
        self.kill()

    def kill(self) -> None:
        """Nothing is open but descriptors."""
        for files in self._files.values():
            files.close()
        self._files.clear()


def run(
    program: Program,
    text: str,
    waiter: Waiter,
    register: Register,
    deadline: float,
    behind: str = "",
    *,
    errors: bool = True,
    files: Sequence[int] = (),
) -> tuple[str, int]:
    """Run ``program`` to its end; (output, exit status or minus the signal).

    The whole process group is killed when the deadline passes or the asker gives up. A process
    that the program leaves behind is killed with it and cannot keep us waiting. ``behind``: the name of a
    program behind it (app.host.through), which ends with its standard input and not before.
    ``errors``: what it says on stderr is output too. ``files``: descriptors that it inherits.
    """
    process = program.start(merge_errors=errors, inherit=files)
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
            if not behind:
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
        raise TimedOut(f"{behind or program.argv[0]} did not end in the time allowed") from None
    finally:
        if behind:
            process.stdin.close()
            wait_for_end(process, LETTING_GO)
        end_group(process, signal.SIGTERM, grace=0.1)
    return kept.decode(errors="replace"), status


def try_through(words: Sequence[str], user: str, waiter: Waiter, register: Register, deadline: float) -> None:
    """See that programs can be run behind ``words``. Raises HostUnfit, StepFailed, Abandoned."""
    program = Program(through.probe(words), user, {})
    try:
        output, status = run(program, "stillframe\n", waiter, register, deadline, words[0])
    finally:
        program.close()
    if status != 0 or output.split() != ["stillframe"]:
        said = shorten_to_end(output) or "what is typed does not reach a program behind it"
        raise StepFailed(f"{' '.join(words)}: {said}; it needs sh and env there, and their standard input")


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
    environment = {} if options.get("through") else _environment(options, step)
    return Program(_argv(options, step), step.do.get("user", options.get("user", "")), environment)


def _argv(options: Options, step: Step) -> tuple[str, ...]:
    argv = tuple(step.do["argv"])
    if not options.get("through"):
        return argv
    size = len(_stdin(options, step).encode())
    return through.command(options["through"], argv, _environment(options, step), size)


def _stdin(options: Options, step: Step) -> str:
    text: str = step.do.get("stdin", options.get("stdin", ""))
    return text


def _environment(options: Options, step: Step) -> dict[str, str]:
    return {**options.get("environment", {}), **step.do.get("environment", {})}


def connect(
    options: Options, steps: Sequence[Step], waiter: Waiter, register: Register, deadline: float
) -> CommandConnection:
    """Look up and check every program of the recipe, so that nothing is looked up in the hold."""
    return CommandConnection(options, steps, waiter, register, deadline)
