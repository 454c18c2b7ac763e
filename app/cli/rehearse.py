"""``app rehearse``: what the next backup would be, without a backup."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from app import history, hold
from app.cli.output import emit, json_option, tell
from app.cli.policies import read_trusted
from app.compiler import compile_files, compile_paths
from app.errors import FRAMEWORK_ERRORS, Busy, Exit, HostUnfit, Misused
from app.host import trust
from app.install import write_set
from app.journal import Journal
from app.paths import CONFIG_DIRECTORY, Paths, paths
from app.policy.wording import printable
from app.rehearsal import APPLICATION, Host, Rehearsal

MOST_SAID = 4096
"""Bytes at the end of what a script wrote into its log that are shown."""

LATE = 30.0
"""Seconds that a script which was late is waited for at the end: it is never killed."""


LOGS = ("pre.log", "post.log")


@click.command("rehearse")
@click.argument("policies", nargs=-1, metavar="[POLICY...]")
@click.option(
    "--out",
    "directory",
    default=CONFIG_DIRECTORY,
    show_default=True,
    metavar="DIR",
    help="Folder that was compiled to, where no POLICY is given.",
)
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(0, 600), help="How long to hold."
)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@json_option
def command(policies: tuple[str, ...], directory: str, seconds: float, quiet: bool, as_json: bool) -> None:
    """Run the compiled scripts as the Azure Backup extension would, and say what it would have made of it.

    The framework's checks, polls and timeouts are kept, and its decision table; applications really are
    quiesced, held and released. Nothing is frozen (app run with the provider none does that) and no
    snapshot is taken. With POLICY... they are compiled to a folder of this rehearsal's own first, so
    that nothing of /etc/azure is touched. Exits 0 if the backup would have been application-consistent
    and every application was held, 1 if not.
    """

    def progress(words: str) -> None:
        if not quiet:
            tell(words)

    if os.geteuid() != 0:
        raise HostUnfit("only root can do what the extension does", "sudo app rehearse")
    places = paths()
    last = max(history.numbers(places), default=0)
    before = {name: len(_log(places, name)) for name in LOGS}
    with _compiled(policies, places) if policies else contextlib.nullcontext(directory) as folder:
        host = Host(os.path.abspath(folder), progress)
        try:
            outcome = host.rehearse(lambda: _wait(places, seconds))
        finally:
            if not host.settle(LATE):
                progress(f"a script that was late has not ended {LATE:g} s after: see app status")
    report = _report(places, last)
    # Where there is no report nothing was held, and why stands there alone.
    said = [] if report else [line for name in LOGS for line in _said(places, name, before[name])]
    emit(_data(outcome, report, said), _text(outcome, report, said), as_json)
    if outcome.backup != APPLICATION or (report and report["exit"]):
        sys.exit(Exit.DIFFERS)


def _wait(places: Paths, seconds: float) -> None:
    """The time of the snapshot. The report of the hold must not tell of one that nobody took."""
    with contextlib.suppress(OSError):
        journal = Journal(places.journal)
        journal.note("rehearsal")
        journal.close()
    time.sleep(seconds)


@contextlib.contextmanager
def _compiled(policies: tuple[str, ...], places: Paths) -> Iterator[str]:
    """A folder with what the policies compile to, removed at the end. Raises Misused, Busy."""
    compiled = compile_paths(policies, read=read_trusted)
    hold.prepare_folders(places)
    folder = f"{places.run}/rehearsal"
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        raise Busy(
            f"{folder} is there: another rehearsal runs, or was killed", f"when none runs: rm -r {folder}"
        ) from None
    try:
        files = compile_files(compiled.plan, compiled.extension, directory=folder, binary=_binary())
        outside = [file.path for file in files if not file.path.startswith(f"{folder}/")]
        if outside:
            raise Misused(
                f"{', '.join(map(printable, outside))}: the policies want it there, no rehearsal's place",
                "app compile them, then app rehearse without POLICY",
            )
        write_set("", files)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binary() -> str:
    """This program, for the scripts to call."""
    found = shutil.which(sys.argv[0])
    if found is None:
        raise HostUnfit(f"{printable(sys.argv[0])} is not to be found", "call app by its full path")
    return os.path.abspath(found)


def _report(places: Paths, last: int) -> dict[str, Any] | None:
    """Our own report of this hold, if there is one."""
    number = max(history.numbers(places), default=0)
    return history.load(places, number) if number > last else None


def _log(places: Paths, name: str) -> bytes:
    """What stands in a script's log; nothing where there is none that root alone can write."""
    try:
        return trust.read_trusted(f"{places.log}/{name}")
    except HostUnfit:
        return b""


def _said(places: Paths, name: str, before: int) -> list[str]:
    """The lines that a script has added to its log."""
    added = _log(places, name)[before:][-MOST_SAID:].decode("utf-8", "replace")
    return [f"{name}: {line}" for line in added.splitlines()]


def _data(outcome: Rehearsal, report: dict[str, Any] | None, said: list[str]) -> dict[str, Any]:
    data: dict[str, Any] = dataclasses.asdict(outcome)
    data["advice"] = FRAMEWORK_ERRORS[outcome.error].advice if outcome.error else ""
    data["report"] = report
    data["said"] = said
    return data


def _text(outcome: Rehearsal, report: dict[str, Any] | None, said: list[str]) -> str:
    lines = [f"the backup would have been: {outcome.backup}"]
    if outcome.error:
        lines.append(f"reported: {outcome.error} ({outcome.code}): {outcome.reason}")
        lines.append(f"advice: {FRAMEWORK_ERRORS[outcome.error].advice}")
    elif outcome.reason:
        lines.append(outcome.reason)
    lines += [f"  {line}" for line in said]
    if report:
        lines.append(f"our own report ({report['number']}): {report['achieved']}")
        lines += [f"  because {reason}" for reason in report["because"]]
        for application in report["applications"]:
            seconds = application["held_seconds"]
            state = "held" if application["held"] else "NOT held"
            lines.append(f"  {application['name']}: {state}" + (f" for {seconds:.1f} s" if seconds else ""))
    return "\n".join(map(printable, lines))
