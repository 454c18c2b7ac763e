"""What is done once a hold is over, by whoever survives: undo what is left, report, tidy up."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

from app import answers, control, history, journal, report
from app import manifest as manifests
from app.credentials import Vault
from app.errors import Exit, StillframeError, reason_of
from app.journal import Journal
from app.manifest import Manifest
from app.mechanisms import StepFailed, Waiter
from app.paths import Paths
from app.plan import Application, Plan, Step
from app.recipe import Recipe
from app.report import Report


def undo(
    application: Application,
    notes: Journal,
    deadline: float,
    saved: Mapping[str, str],
    vault: Vault | None = None,
) -> bool:
    """Run ``recover`` of an application whose session is gone; False (and noted) if that fails.

    ``saved``: the answers of its steps. A step that needs one that never came is left out: what would
    have come after that answer was never done either. What a step of ``recover`` saves itself serves the
    ones after it. ``vault``: the secrets that this process has read already. Where they do not serve they are
    read anew, once: they may have been changed during the hold.
    """
    vault = vault or Vault(application.secrets)
    known = bool(vault.values)
    reason = _undo(application, deadline, saved, vault)
    if reason and known and time.monotonic() < deadline:
        vault.forget()
        reason = _undo(application, deadline, saved, vault)
    if reason:
        notes.note("undo_failed", app=application.name, reason=reason)
        return False
    notes.note("undone", app=application.name)
    return True


def _undo(application: Application, deadline: float, saved: Mapping[str, str], vault: Vault) -> str:
    """Run ``recover``; why it failed, "" where it did not."""
    recipe = Recipe(application.mechanisms, Waiter(), lambda pid: None, vault)
    recipe.saved.update(saved)
    steps: list[Step] = []
    coming: set[str] = set()
    for step in application.recover:
        needed = recipe.needs(step)
        if needed <= saved.keys() | coming and (needed & coming or recipe.applies(step)):
            steps.append(step)
            coming.update(name.removesuffix(":hex") for name in step.save)
    try:
        recipe.connect(steps, deadline)
        recipe.perform(steps, deadline)
    except (StepFailed, StillframeError, OSError) as error:
        return reason_of(error) or "given up"
    finally:
        recipe.kill()
    return ""


class Aftermath:
    """The end of the hold whose journal this is."""

    def __init__(self, plan: Plan, notes: Journal, paths: Paths) -> None:
        self._plan = plan
        self._notes = notes
        self._paths = paths

    def conclude(self, reason: str) -> None:
        """For the watchdog and for ``recover``: everything is thawed; release, report, tidy up."""
        self._notes.note("broken", reason=reason)
        events = journal.read(self._paths.journal)
        left = set(journal.quiesced_applications(events))
        for application in reversed(self._plan.applications):
            if application.name in left:
                saved = journal.saved_answers(events, application.name) or self._kept(application)
                if saved is not None:
                    undo(application, self._notes, time.monotonic() + application.timing.release, saved)
        self._notes.note("end")
        self.write()
        self.clear()

    def _kept(self, application: Application) -> dict[str, str] | None:
        """The answers on disk; None (and noted) where they cannot be read: without them little is undone."""
        try:
            return answers.kept(self._paths, application.name)
        except (StillframeError, OSError, ValueError) as error:
            self._notes.note("undo_failed", app=application.name, reason=reason_of(error))
            return None

    def report(self) -> report.Report:
        """The report as the journal stands now."""
        return report.build(self._plan, journal.read(self._paths.journal))

    def verdict(self) -> tuple[int, str]:
        """Exit status and words for the post-script."""
        found = self.report()
        return post_status(
            found
        ), f"{found['achieved']}: {'; '.join(found['because']) or 'held without a break'}"

    def write(self) -> None:
        """Keep the report, and the manifest. Never raises: a full disk must not change what was achieved."""
        found = self.report()
        try:
            number = history.save(self._paths, found)
            self._notes.note("reported", number=number)
        except OSError as error:
            self._notes.note("not_reported", reason=str(error))
        self.manifest(found)

    def manifest(self, found: Report) -> None:
        """Write the manifests anew, with what is known now. Never raises.

        A journal that does not tell how its hold began is of a restart, or of a restored machine, where the
        manifest of that hold stands as it was in the snapshot: nothing is known that it does not say.
        """
        if not found["hold"]:
            return
        try:
            places = Manifest(self._plan, self._paths)
        except (StillframeError, OSError) as error:
            self._notes.note("manifest", wrong=[str(error)])
            return
        self._notes.note("manifest", wrong=places.write(manifests.after(found)))
        places.close()

    def clear(self) -> None:
        """Remove what only a hold in progress needs; kept if something is still not released."""
        control.remove(self._paths)
        if not journal.quiesced_applications(journal.read(self._paths.journal)):
            with contextlib.suppress(OSError):
                os.unlink(self._paths.outstanding)
            with contextlib.suppress(OSError):
                answers.forget(self._paths)


def post_status(found: report.Report) -> int:
    """Exit status of the post-script: an optional application's failure never fails the backup."""
    if found["stuck"]:
        return int(Exit.STUCK)
    lost = any(report.failed(a) for a in found["applications"])
    return int(Exit.DIFFERS if lost or found["framework_error"] else Exit.DONE)
