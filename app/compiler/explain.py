"""What a plan will do, in plain words: for an operator at night."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from typing import Any

from app.compiler import Compiled
from app.compiler.outcomes import AFTER_FAILURE, outcomes
from app.host import hazards
from app.plan import Application, Plan, Step, Variant
from app.policy.wording import printable, seconds

WIDTH = 100
_NUMBER = 4
_TIME = 12


def explain(compiled: Compiled) -> str:
    """The whole explanation as text, 100 columns wide, ASCII wherever the policy is."""
    sections = (
        _summary(compiled),
        _section("WHAT HAPPENS, IN ORDER", _order(compiled)),
        _section("WHO STANDS STILL, AND FOR HOW LONG", _still(compiled)),
        _section("TIME BUDGET", _budget(compiled)),
        _section("WHAT THE BACKUP WILL BE", _failures(compiled.plan)),
    )
    return "\n\n".join(sections)


def to_json(compiled: Compiled) -> dict[str, Any]:
    """The same for programs."""
    plan, budget = compiled.plan, compiled.budget
    return {
        "requested": plan.requested.word,
        "order": [application.name for application in plan.applications],
        "applications": [
            {
                "name": a.name,
                "summary": a.summary,
                "required": a.required,
                "level": a.level.word,
                "proven": a.proven,
                "after": list(a.after),
                "hold_seconds": a.timing.hold,
                "recipes": [
                    {
                        "name": v.name,
                        "versions": [f"{op}{number}" for op, number in v.versions],
                        "quiesce": [action(s, a) for s in v.quiesce],
                        "verify": [action(s, a) for s in v.verify],
                        "release": [action(s, a) for s in v.release],
                    }
                    for v in a.variants
                ],
                "recover": [action(s, a) for s in a.recover],
            }
            for a in plan.applications
        ],
        "freeze": {
            "enabled": plan.freeze.enabled,
            "mounts": list(plan.freeze.mounts) or "auto",
            "skip": list(plan.freeze.skip),
            "timeout_seconds": plan.freeze.timeout,
        },
        "hazards": {name: plan.hazards.get(name, kind.severity) for name, kind in hazards.KINDS.items()},
        "snapshot": plan.snapshot.provider,
        "budget": {
            "pre": {"seconds": budget.pre.total, "sum": str(budget.pre)},
            "hold": {"seconds": budget.hold.total, "sum": str(budget.hold)},
            "post": {"seconds": budget.post.total, "sum": str(budget.post)},
            "whole": {"seconds": budget.whole.total, "sum": str(budget.whole)},
            "timeout_seconds": budget.timeout_seconds,
        },
        "outcomes": [
            {"event": o.event, "backup": o.backup, "reported": list(o.reported)} for o in outcomes(plan)
        ],
    }


def action(step: Step, application: Application) -> str:
    """One step in one line: the statement, the command, the action."""
    do = step.do
    if "send" in do:
        words = " ".join(str(do["send"]).split())
    elif "argv" in do:
        words = shlex.join(do["argv"])
    elif "action" in do:
        options = application.mechanisms.get(step.mechanism, {})
        subjects = next((options[key] for key in ("databases", "groups", "units") if key in options), ())
        words = f"{step.mechanism} {do['action']}: {', '.join(subjects)}"
    elif "path" in do:
        words = f"{step.mechanism}: {do.get('method', 'GET')} {do['path']}"
    else:
        words = f"{step.mechanism}: {', '.join(f'{key} {value}' for key, value in sorted(do.items()))}"
    return printable(words)


def _summary(compiled: Compiled) -> str:
    plan = compiled.plan
    names = ", ".join(application.name for application in plan.applications)
    failing = "goes on at a lower level" if plan.framework.continue_backup_on_failure else "fails"
    return _wrap(
        f"This plan asks for {plan.requested.word}-consistent snapshots of: {names}. "
        f"If that is not reached, the backup {failing} (continueBackupOnFailure = "
        f"{str(plan.framework.continue_backup_on_failure).lower()}, fsFreezeEnabled = "
        f"{str(plan.freeze.enabled).lower()}; details below)."
    )


def _order(compiled: Compiled) -> list[str]:
    plan = compiled.plan
    active = [a for a in plan.applications if any(v.quiesce for v in a.variants)]
    rows = [f"{'':<{WIDTH - _TIME}}{'at most':>{_TIME}}"]

    def row(words: str, time: str = "") -> None:
        number = f"{sum(line[:_NUMBER].strip() != '' for line in rows) + 1}."
        lines = textwrap.wrap(words, WIDTH - _NUMBER - _TIME - 2)
        rows.append(f"{number:<{_NUMBER}}{lines[0]:<{WIDTH - _NUMBER - _TIME}}{time:>{_TIME}}".rstrip())
        rows.extend(" " * _NUMBER + line for line in lines[1:])

    clients = f", connect to {', '.join(a.name for a in active)}" if active else ""
    row(f"pre-script: check owners, modes and hazards{clients}. Nothing stands still yet", _at_most(10))
    rows.extend(_secrets(active))
    for application in active:
        after = f" after {', '.join(application.after)}" if application.after else ""
        optional = "" if application.required else ", not required"
        attempts = application.timing.retries + 1
        row(
            f"quiesce {application.name}{after}{optional}; {attempts} attempt{'s' if attempts > 1 else ''}",
            _at_most(application.timing.quiesce, attempts),
        )
        rows.extend(_recipes(application, "quiesce"))
    if plan.freeze.enabled:
        row(f"the extension freezes the filesystems: {_filesystems(plan)}", _at_most(plan.freeze.timeout))
    row("Azure Backup takes the snapshot of the disks")
    if plan.freeze.enabled:
        row("the extension thaws the filesystems")
    for application in reversed(active):
        row(f"post-script: check and release {application.name}", _at_most(application.timing.release))
        rows.extend(_recipes(application, "release"))
    row(f"report: the level is {plan.requested.word} only if every hold was unbroken, by its own proof")
    if plan.freeze.mounts:
        rows.append("")
        rows.extend(
            _wrap(
                f"freeze.mounts ({', '.join(plan.freeze.mounts)}) is for 'app run': the extension freezes "
                "all but those of freeze.skip."
            ).splitlines()
        )
    if len(active) > 1:
        rows.append("")
        rows.extend(
            _wrap("Applications that do not wait for each other (after) are quiesced at once.").splitlines()
        )
    if plan.hazards:
        words = ", ".join(f"{name} {severity}" for name, severity in sorted(plan.hazards.items()))
        rows.append("")
        rows.extend(_wrap(f"Hazards with a severity of their own ([hazards]): {words}.").splitlines())
    provider = plan.snapshot.provider
    if provider != "azure-backup":
        rows.append("")
        rows.extend(
            _wrap(
                f"'app run' does the same with the provider {provider} in place of Azure Backup, and freezes "
                "and thaws by itself where that provider needs it. The compiled scripts always serve the "
                "extension."
            ).splitlines()
        )
    return rows


def _secrets(active: Sequence[Application]) -> list[str]:
    """Where secrets are read, by the keeper of each application."""
    lines: list[str] = []
    lead = " " * (_NUMBER + 2)
    for application in active:
        for name, secret in sorted(application.secrets.items()):
            if secret.file:
                place = f"the file {secret.file}"
            elif secret.credential:
                place = f"systemd's credential {secret.credential}"
            else:
                place = f"the output of {shlex.join(secret.command)}"
            text = printable(f"{application.name}: secret {name} from {place}")
            lines.extend(textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=lead + "  "))
    return lines


def _recipes(application: Application, part: str) -> list[str]:
    lines: list[str] = []
    several = len(application.variants) > 1
    for variant in application.variants:
        if several:
            lines.append(f"{' ' * _NUMBER}- {_variant(variant)}:")
        steps = variant.quiesce if part == "quiesce" else (*variant.verify, *variant.release)
        lead = " " * (_NUMBER + (4 if several else 2))
        for step in steps:
            text = action(step, application) + ("   (proves the hold)" if step.proof else "")
            lines.extend(
                textwrap.wrap(
                    text, WIDTH, initial_indent=lead, subsequent_indent=lead + "  ", break_on_hyphens=False
                )
            )
    return lines


def _variant(variant: Variant) -> str:
    if not variant.versions:
        return printable(variant.name)
    versions = " ".join(f"{op}{number}" for op, number in variant.versions)
    return f"{printable(variant.name)} (server version {versions})"


def _still(compiled: Compiled) -> list[str]:
    plan = compiled.plan
    words = (
        "quiesced from its quiesce to its release; then released whatever happens, and the snapshot does "
        "not count as application-consistent"
    )
    rows = [
        (application.name, _at_most(application.timing.hold), words)
        for application in plan.applications
        if any(variant.quiesce for variant in application.variants)
    ]
    if plan.freeze.enabled:
        rows.append(
            (
                "filesystems",
                _at_most(plan.freeze.timeout),
                f"frozen: {_filesystems(plan)}; who writes to them waits, who reads goes on",
            )
        )
    return _table(rows) if rows else ["nobody"]


def _budget(compiled: Compiled) -> list[str]:
    budget = compiled.budget
    rows = [
        ("pre-script", f"{seconds(budget.pre.total)} s", str(budget.pre)),
        ("hold", f"{seconds(budget.hold.total)} s", str(budget.hold)),
        ("post-script", f"{seconds(budget.post.total)} s", str(budget.post)),
        ("whole", f"{seconds(budget.whole.total)} s", f"{budget.whole}, limit 1800"),
        (
            "timeout",
            f"{budget.timeout_seconds} s",
            "timeoutInSeconds: what the extension gives each script before it goes on without it",
        ),
    ]
    return _table(rows)


def _failures(plan: Plan) -> list[str]:
    lines: list[str] = []
    found = outcomes(plan)
    for outcome in found:
        lines.extend(_wrap(f"* {outcome.event}", "  ").splitlines())
        lines.extend(_wrap(f"backup: {outcome.backup}", "            ", "    ").splitlines())
        if outcome.reported:
            lines.extend(
                _wrap(f"reported: {', '.join(outcome.reported)}", "              ", "    ").splitlines()
            )
    if any("FAILS" in outcome.backup for outcome in found):
        lines += ["", *_wrap(AFTER_FAILURE).splitlines()]
    return lines


def _filesystems(plan: Plan) -> str:
    if plan.freeze.skip:
        return f"every ext3, ext4, xfs and btrfs but {', '.join(plan.freeze.skip)}"
    return "every ext3, ext4, xfs and btrfs"


def _at_most(value: float, times: int = 1) -> str:
    return f"{times} x {seconds(value)} s" if times > 1 else f"{seconds(value)} s"


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, "-" * len(title), *lines])


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    first = max(len(row[0]) for row in rows)
    second = max(len(row[1]) for row in rows)
    lines: list[str] = []
    for name, time, words in rows:
        lead = f"{name:<{first}}  {time:>{second}}  "
        lines.extend(textwrap.wrap(words, WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead)))
    return lines


def _wrap(text: str, indent: str = "", first: str = "") -> str:
    return "\n".join(textwrap.wrap(printable(text), WIDTH, initial_indent=first, subsequent_indent=indent))
