"""The keeper: one process for each application, which connects, quiesces, keeps and releases it.

It obeys the holder over a channel. When the channel closes, the holder is gone: the keeper then
releases its application by itself and ends. What it starts is registered, so that the holder and
the watchdog can end it when the keeper cannot.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from app.aftermath import undo
from app.credentials import Vault
from app.errors import StillframeError, reason_of
from app.host.fork import receive
from app.host.memory import stay_resident
from app.journal import Journal
from app.masking import mask_all
from app.mechanisms import Abandoned, StepFailed, Waiter
from app.plan import OUTCOME, Application, Outcome, Variant
from app.recipe import Recipe, all_steps, choose, describe

BEAT = 0.1
"""Seconds between two signs of life: a keeper that is stopped is as bad as one that is dead."""

ALONE = 1.2
"""Seconds for a release without a holder: law 1 allows two in all."""


class LeftAlone(Exception):
    """The server is not what the policy is for."""


class Keeper:
    """Keeps one application. ``channel``: SOCK_SEQPACKET, JSON both ways.

    ``remember`` writes down the answers that recovering will need; raises OSError.
    """

    def __init__(
        self,
        application: Application,
        channel: socket.socket,
        journal: Journal,
        remember: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        self._application = application
        self._remember = remember
        self._channel = channel
        self._journal = journal
        self._vault = Vault(application.secrets)
        self._recipe = self._new_recipe()
        self._variant: Variant | None = None
        self._held = False
        self._touched = False

    def serve(self) -> None:
        """Obey until told to end, or until the holder is gone."""
        stay_resident(everything=False)
        threading.Thread(target=self._beat, daemon=True).start()
        while True:
            message = self._next()
            if message is None:
                self._alone()
                return
            if message["do"] == "end":
                self._recipe.close(time.monotonic() + 1)
                return
            self._obey(message["do"], time.monotonic() + message["seconds"], message)

    def _next(self) -> dict[str, Any] | None:
        """The holder's next message; while waiting, report a connection that is lost."""
        while True:
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLIN)
            watched = {}
            for connection in self._recipe.connections.values():
                descriptor = connection.lost()
                if descriptor is not None:
                    watched[descriptor] = connection
                    poll.register(descriptor, select.POLLIN)
            ready = [descriptor for descriptor, _ in poll.poll()]
            lost = [watched[descriptor] for descriptor in ready if descriptor in watched]
            if lost:
                reason = getattr(lost[0], "complaint", lambda: "the connection was lost")()
                self._held = False
                self._note("lost", reason=reason)
                # What outlives it is undone when the holder says so: meanwhile something may be frozen.
                self._recipe.kill()
                self._say("lost", reason=reason)
                continue
            data = receive(self._channel, 1 << 16)
            if not data:
                return None
            message: dict[str, Any] = json.loads(data)
            if message["do"] != "abandon":
                return message

    def _obey(self, order: str, deadline: float, message: dict[str, Any]) -> None:
        begun = time.monotonic()
        try:
            facts = getattr(self, f"_{order}")(deadline, message) or {}
            ok, reason = True, ""
        except Abandoned:
            ok, reason, facts = False, "given up", {}
        except LeftAlone as error:
            self._note("left_alone", reason=str(error))
            self._recipe.kill()
            self._say("done", order=order, ok=False, reason=str(error), left_alone=True)
            return
        except (StepFailed, StillframeError) as error:
            ok, reason, facts = False, reason_of(error), {}
        except OSError as error:
            ok, reason, facts = False, f"{error.filename or ''} {error.strerror or error}".strip(), {}
        if not ok and order in ("connect", "quiesce"):
            self._note("attempt_failed", reason=reason, attempt=message.get("attempt", 1))
            self._undo(time.monotonic() + self._application.timing.release)
            self._vault.forget()
        took = time.monotonic() - begun
        left = self._touched and not ok and order != "verify"  # all others undo what they cannot do
        self._say("done", order=order, ok=ok, reason=reason, seconds=took, left=left, **facts)

    def _connect(self, deadline: float, message: dict[str, Any]) -> dict[str, Any]:
        self._recipe.connect(all_steps(self._application), deadline)
        self._variant = choose(self._application, self._recipe.version)
        role = self._see_role(deadline)
        facts = {
            "identities": self._recipe.identities,
            "version": self._recipe.version,
            "variant": self._variant.name,
            **({"role": role} if role else {}),
        }
        self._note("connected", **facts)
        return facts

    def _see_role(self, deadline: float) -> str:
        """What the server is in its cluster, "" where nobody asks. Raises LeftAlone, StepFailed."""
        role = self._application.role
        if role is None:
            return ""
        answer = self._recipe.ask(role.ask, deadline)
        found = [
            name for name in ("primary", "standby") if re.search(getattr(role, name), answer, re.MULTILINE)
        ]
        if len(found) != 1:
            raise StepFailed(f"{describe(role.ask)}: {answer!r} does not tell a primary from a standby")
        if role.wanted not in ("any", found[0]):
            raise LeftAlone(f"left alone: it is a {found[0]} now, and the policy is for a {role.wanted}")
        return found[0]

    def _quiesce(self, deadline: float, message: dict[str, Any]) -> None:
        if self._touched:
            # Whatever it would find now it would take for how the application was before.
            self._undo(deadline)
            if self._touched:
                raise StepFailed("what an earlier attempt did could not be undone")
        if self._variant is None or (all_steps(self._application) and not self._recipe.connections):
            self._connect(deadline, message)
        assert self._variant is not None
        self._note("quiescing", attempt=message.get("attempt", 1))
        self._touched = True
        self._steps("quiesce", self._variant.quiesce, deadline)
        self._held = True
        self._note("quiesced", saved=self._recipe.saved)

    def _verify(self, deadline: float, message: dict[str, Any]) -> None:
        """Prove on the original connections that the hold is unbroken."""
        assert self._variant is not None
        if not self._held:
            raise StepFailed("it is not held")
        try:
            self._recipe.prove(deadline)
            self._steps("verify", self._variant.verify, deadline)
        except BaseException as error:
            self._held = False
            self._note("not_verified", reason=reason_of(error) or "given up")
            raise
        self._note("verified")

    def _release(self, deadline: float, message: dict[str, Any]) -> dict[str, Any]:
        if not self._touched:
            return {}
        assert self._variant is not None
        was_held, self._held = self._held, False
        try:
            self._note("releasing")
            if any(OUTCOME in step.when for step in self._variant.release):
                self._recipe.saved[OUTCOME] = message.get("outcome", Outcome.NONE)
            self._steps("release", self._variant.release, deadline)
        except (StepFailed, Abandoned, StillframeError, OSError) as error:
            self._note("release_failed", reason=reason_of(error) or "given up")
            self._undo(max(deadline, time.monotonic() + ALONE))
            raise
        self._touched = False
        self._note("released", held=was_held, saved=self._recipe.saved)
        self._recipe.close(deadline)
        self._recipe.connections.clear()
        return {}

    def _recover(self, deadline: float, message: dict[str, Any]) -> None:
        """Release what outlives a session, for a keeper that is gone."""
        self._recipe.saved.update(message.get("saved", {}))
        self._touched = True
        self._undo(deadline)
        if self._touched:
            raise StepFailed("recover failed")

    def _steps(self, phase: str, steps: Any, deadline: float) -> None:
        begun = time.monotonic()

        def done(step: Any) -> None:
            nonlocal begun
            now = time.monotonic()
            facts = {"saved": self._recipe.saved} if step.save else {}
            self._note(
                "step",
                phase=phase,
                what=describe(step),
                seconds=round(now - begun, 6),
                proof=step.proof,
                **facts,
            )
            if step.save and phase == "quiesce" and self._remember:
                self._remember(self._recipe.saved)
            begun = now

        self._recipe.perform(steps, deadline, done)

    def _undo(self, deadline: float) -> None:
        """End the sessions, which releases what dies with them, and run ``recover`` for the rest."""
        saved = self._recipe.saved
        self._recipe.kill()
        touched, self._touched, self._held = self._touched, False, False
        if touched and not undo(self._application, self._journal, deadline, saved, self._vault):
            self._touched = True
        self._recipe = self._new_recipe()
        if self._touched:
            self._recipe.saved.update(saved)  # for whoever tries again
        self._variant = None

    def _alone(self) -> None:
        """The holder is gone: release what is held, then end."""
        deadline = time.monotonic() + ALONE
        if self._touched and self._held and self._variant is not None:
            self._waiter.forget_asker()
            with contextlib.suppress(StepFailed, StillframeError, OSError):
                self._release(deadline, {})
        elif self._touched:
            self._undo(deadline)
        self._recipe.kill()

    def _new_recipe(self) -> Recipe:
        self._waiter = Waiter(self._channel.fileno())
        return Recipe(self._application.mechanisms, self._waiter, self._register, self._vault)

    def _register(self, pid: int) -> None:
        self._say("pid", pid=pid)

    def _note(self, event: str, **facts: Any) -> None:
        self._journal.note(event, app=self._application.name, **facts)

    def _say(self, event: str, **facts: Any) -> None:
        # A failure means that the holder is gone; the next read says so.
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps({"event": event, **mask_all(facts)}).encode())

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._channel.send(b'{"event": "beat"}')
                time.sleep(BEAT)
