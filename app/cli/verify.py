"""``app verify``: what is wrong on this VM, or in an image, and what repairs it."""

from __future__ import annotations

import os
import sys

import click

from app.cli.output import emit, json_option
from app.errors import Exit
from app.paths import CONFIG_DIRECTORY
from app.verify import ERROR, Finding, check


@click.command("verify")
@click.option(
    "--out",
    "directory",
    default=CONFIG_DIRECTORY,
    show_default=True,
    metavar="DIR",
    help="Folder that was compiled to, as the VM sees it.",
)
@click.option("--root", default="", metavar="IMAGE", help="Check an image: every path is below this folder.")
@click.option("--fix", is_flag=True, help="Repair owners and modes where that is safe; never content.")
@json_option
def command(directory: str, root: str, fix: bool, as_json: bool) -> None:
    """Check owners, modes, digests and locations on this VM.

    Exits 4 while anything is wrong; warnings alone exit 0.
    """
    # Without resolving links: where one is on the way, that is a finding.
    directory = os.path.normpath(directory if root else os.path.abspath(directory))
    root = os.path.abspath(root).rstrip("/") if root else ""
    findings = check(directory, root)
    repaired: list[str] = []
    if fix and findings:
        from app.verify.repair import repair

        repaired = repair(findings, directory, root)
        findings = check(directory, root)
    errors = sum(finding.severity == ERROR for finding in findings)
    data = {
        "directory": root + directory,
        "checked_as": os.geteuid(),
        "ok": not errors,
        "findings": [finding.to_json() for finding in findings],
        "repaired": repaired,
    }
    emit(data, _text(findings, repaired, errors, root + directory), as_json)
    if errors:
        sys.exit(int(Exit.HOST))


def _text(findings: list[Finding], repaired: list[str], errors: int, place: str) -> str:
    lines = [f"repaired: {line}" for line in repaired]
    lines += map(str, findings)
    warnings = len(findings) - errors
    if errors:
        summary = f"{place}: not fit: {_count(errors, 'error')}, {_count(warnings, 'warning')}"
    elif warnings:
        summary = f"{place}: fit, with {_count(warnings, 'warning')}"
    else:
        summary = f"{place}: everything is as it was compiled"
    if os.geteuid() != 0:
        summary += (
            f"\nnote: checked as user {os.geteuid()}, whose files pass too; on the VM root must own them"
        )
    return "\n".join([*lines, summary])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
