"""Running the steps of a recipe on live connections: expectations, saved answers, proofs."""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from app import mechanisms
from app.credentials import Vault
from app.errors import HostUnfit
from app.masking import mask, shorten
from app.mechanisms import Connection, ConnectionLost, Register, StepFailed, TimedOut, Waiter
from app.plan import SECRET_OPTIONS, Application, Options, Step, Variant
from app.template import TemplateError, fill_all, mentioned

_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}


class Recipe:
    """The connections of one application and the answers that its steps gave.

    ``saved`` maps names of the recipe's ``save`` to answers; they go into the report. ``vault``: what is
    to be filled in where secrets may stand; None: nothing is, or it was done.
    """

    def __init__(
        self,
        options: Mapping[str, Options],
        waiter: Waiter,
        register: Register,
        vault: Vault | None = None,
    ) -> None:
        self._options = options
        self._vault = vault or Vault({})
        self._waiter = waiter
        self._register = register
        self.connections: dict[str, Connection] = {}
        self.saved: dict[str, str] = {}

    @property
    def identities(self) -> dict[str, str]:
        """What each server calls our session."""
        return {name: c.identity for name, c in self.connections.items() if c.identity}

    @property
    def version(self) -> int | None:
        """The server's version, from whichever connection knows one."""
        return next((c.version for c in self.connections.values() if c.version is not None), None)

    def connect(self, steps: Sequence[Step], deadline: float) -> None:
        """Open every mechanism that ``steps`` use and that is not open yet.

        Raises StepFailed, Abandoned, HostUnfit.
        """
        self._vault.open(self._waiter, self._register, deadline)
        for name in dict.fromkeys(step.mechanism for step in steps):
            if name not in self.connections:
                module = mechanisms.load(name)
                self.connections[name] = module.connect(
                    self._opened(name), steps, self._waiter, self._register, deadline
                )

    def perform(
        self, steps: Iterable[Step], deadline: float, done: Callable[[Step], None] | None = None
    ) -> bool:
        """Do steps in order; True if one of them is a proof.

        Raises StepFailed at the first that fails (the following are not done), Abandoned.
        """
        proven = False
        for template in steps:
            if not self.applies(template):
                continue
            step = self._filled(template)
            self._repeat(step, deadline)
            proven = proven or step.proof
            if done:
                done(step)
        return proven

    def ask(self, step: Step, deadline: float) -> str:
        """The answer to one step, whatever it is. Raises StepFailed, Abandoned."""
        return self.connections[step.mechanism].perform(self._filled(step), deadline)

    def needs(self, step: Step) -> frozenset[str]:
        """The names of the answers without which a step cannot be done."""
        if not step.staged:
            return frozenset(step.when)
        return (mentioned([step.do, step.expect]) | step.when.keys()) - self._vault.names - self._files(step)

    def applies(self, step: Step) -> bool:
        """Whether the answers that a step depends on are there, and are such that it is to be done."""
        return all(re.search(pattern, self.saved.get(name, "")) for name, pattern in step.when.items()) and (
            step.when.keys() <= self.saved.keys()
        )

    def prove(self, deadline: float) -> None:
        """Raise ConnectionLost unless every connection is the one that was opened at first."""
        for connection in self.connections.values():
            connection.prove(deadline)

    def close(self, deadline: float) -> None:
        """End all connections in good order."""
        for connection in self.connections.values():
            connection.close(deadline)
        self.connections.clear()

    def kill(self) -> None:
        """End all connections at once."""
        for connection in self.connections.values():
            connection.kill()
        self.connections.clear()

    def _filled(self, step: Step) -> Step:
        if not step.staged:
            return step
        try:
            # What a mechanism itself puts in the place of a file's name stays as it is.
            values = {
                **{name: f"{{{name}}}" for name in self._files(step)},
                **self.saved,
                **self._vault.values,
            }
            expect = None if step.expect is None else fill_all(step.expect, values)
            return replace(step, do=fill_all(step.do, values), expect=expect, staged=False)
        except TemplateError as error:
            raise StepFailed(f"{describe(step)}: {error.message}") from None

    def _files(self, step: Step) -> frozenset[str]:
        return frozenset(self._options.get(step.mechanism, {}).get("files", {}))

    def _opened(self, name: str) -> Options:
        """The options of a mechanism, with secrets where they may stand. Raises StepFailed."""
        options = self._options.get(name, {})
        if not self._vault.names:
            return options
        try:
            return {
                key: fill_all(value, self._vault.values) if key in SECRET_OPTIONS else value
                for key, value in options.items()
            }
        except TemplateError as error:
            raise StepFailed(f"{name}: {error.message}") from None

    def _repeat(self, step: Step, deadline: float) -> None:
        """Do a step, again and again for as long as it says, until its answer is right."""
        last_start = min(deadline, time.monotonic() + step.within)
        while True:
            try:
                self._judge(step, self.connections[step.mechanism].perform(step, deadline))
            except (ConnectionLost, TimedOut):
                raise
            except StepFailed:
                if time.monotonic() + step.pause >= last_start:
                    raise
                self._waiter.rest(step.pause)
            else:
                return

    def _judge(self, step: Step, answer: str) -> None:
        values: tuple[str, ...] = (answer,)
        if step.expect is not None:
            match = re.search(step.expect, answer, re.MULTILINE)
            if match is None:
                raise StepFailed(
                    f"{describe(step)}: answered {shorten(answer)!r}, which does not match {step.expect!r}"
                )
            if match.re.groups == max(1, len(step.save)):
                values = tuple(group or "" for group in match.groups())
        if step.unchanged is not None and values[0] != self.saved.get(step.unchanged):
            before = shorten(self.saved.get(step.unchanged, ""))
            raise StepFailed(f"{describe(step)}: answered {shorten(values[0])!r}, but {before!r} before")
        if step.save and any(mask(value) != value for value in values):
            raise StepFailed(f"{describe(step)}: the answer holds a secret, and would be written down")
        for name, value in zip(step.save, values, strict=False):
            plain, _, form = name.partition(":")
            try:
                self.saved[plain] = (
                    bytes.fromhex(value).decode(errors="surrogateescape") if form == "hex" else value
                )
            except ValueError:
                raise StepFailed(f"{describe(step)}: {shorten(value)!r} is not hexadecimal") from None


def choose(application: Application, version: int | None) -> Variant:
    """The first variant that fits the server's version.

    Raises HostUnfit if none does, or if the recipe needs a version and the server gave none.
    """
    for variant in application.variants:
        if all(version is not None and _COMPARE[op](version, number) for op, number in variant.versions):
            return variant
    known = ", ".join(v.name for v in application.variants)
    raise HostUnfit(f"{application.name}: no recipe for server version {version}; there are: {known}")


def all_steps(application: Application) -> list[Step]:
    """Every step that a hold may do, of all variants."""
    return [
        step
        for variant in application.variants
        for step in (*variant.quiesce, *variant.verify, *variant.release)
    ] + [*application.recover, *([application.role.ask] if application.role else [])]


def describe(step: Step) -> str:
    """A step in a few words: its statement, command or action."""
    for key in ("send", "argv", "action", "path"):
        if key in step.do:
            value = step.do[key]
            words = " ".join(value) if isinstance(value, (list, tuple)) else str(value)
            return shorten(f"{step.do.get('method', 'GET')} {words}" if key == "path" else words, 200)
    return step.mechanism
