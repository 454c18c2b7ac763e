"""What the backup will be on each failure: the extension's decision table, for one configuration.

Sources: learn.microsoft.com/azure/backup/backup-azure-linux-app-consistent (error names, advice), and
the public extension's behaviour as measured (tests/conformance holds its re-creation against this).
"""

from __future__ import annotations

from dataclasses import dataclass

from app.plan import Level, Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """A failure, what the backup is then, and the names under which the extension reports it."""

    event: str
    backup: str
    reported: tuple[str, ...]


AFTER_FAILURE = (
    "Where the backup FAILS, the service tries again by its own schedule, and a VM with one disk falls back "
    "to crash-consistent regardless."
)


def outcomes(plan: Plan) -> list[Outcome]:
    """Every row of the decision table, worst surprises included, the good end first."""
    keep_going, freeze = plan.framework.continue_backup_on_failure, plan.freeze.enabled
    lowered = [application.name for application in plan.applications if not application.required]
    out = [Outcome("everything succeeds", _success(plan), ())]
    if lowered:
        out.append(
            Outcome(
                f"an application that is not required fails ({', '.join(lowered)})",
                "goes on; our report names the lower level that was reached, the extension sees a success",
                (),
            )
        )
    out += [
        Outcome(
            "pre-script fails: an application cannot be quiesced",
            _pre(keep_going, freeze),
            ("Pre-ScriptExecutionFailed",),
        ),
        Outcome(
            f"pre-script is not done after {plan.framework.timeout_seconds} s",
            f"{_pre(keep_going, freeze)}; the extension stops nothing, so the script gives up and releases",
            ("Pre-ScriptTimeout",),
        ),
        Outcome(
            "post-script fails: the hold was broken, or a release failed",
            _post(keep_going, freeze),
            ("Post-ScriptExecutionFailed",),
        ),
        Outcome(
            f"post-script is not done after {plan.framework.timeout_seconds} s",
            _post(keep_going, freeze),
            ("Post-ScriptTimeout",),
        ),
        Outcome(
            "a script is missing", _check(keep_going, freeze), ("Pre-ScriptNotFound", "Post-ScriptNotFound")
        ),
        Outcome(
            "a script's owner is not root, or its mode is not 700",
            _check(keep_going, freeze),
            ("InsufficientPermissionforPre-Script", "InsufficientPermissionforPost-Script"),
        ),
        Outcome(
            "the config has a wrong owner or mode, or is damaged",
            "goes on, filesystem-consistent, whatever the policy says: it is not read; neither script runs",
            ("IncorrectJSONConfigFile",),
        ),
        Outcome(
            "the config is missing",
            "goes on, filesystem-consistent, as if nothing were set up; neither script runs. NOTHING IS "
            "REPORTED: only 'app verify' notices",
            (),
        ),
        Outcome(
            "the extension's own Pluginhost file is damaged",
            "goes on, filesystem-consistent; neither script runs",
            ("IncorrectPluginhostFile",),
        ),
    ]
    return out


def _success(plan: Plan) -> str:
    if plan.requested is Level.APPLICATION:
        return "application-consistent"
    return (
        f"{plan.requested.word}-consistent. The portal says application-consistent all the same, "
        "because both scripts succeed: no policy quiesces an application"
    )


def _pre(keep_going: bool, freeze: bool) -> str:
    if not freeze:
        return "FAILS, without a snapshot: fsFreezeEnabled is false, so any failure does"
    if keep_going:
        return "goes on, filesystem-consistent"
    return "FAILS, without a snapshot; the post-script still runs"


def _post(keep_going: bool, freeze: bool) -> str:
    if keep_going and freeze:
        return "the snapshot stands, but do not count on more than filesystem-consistent"
    why = "continueBackupOnFailure is false" if freeze else "fsFreezeEnabled is false"
    return f"the snapshot was taken, and the backup FAILS: {why}"


def _check(keep_going: bool, freeze: bool) -> str:
    if not keep_going:
        return "FAILS, without a snapshot; neither script runs"
    if not freeze:
        return "goes on without scripts and without a freeze: crash-consistent at best"
    return "goes on, filesystem-consistent; neither script runs"
