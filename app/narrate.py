"""A report as text for people."""

from __future__ import annotations

from typing import Any

from app.masking import shorten
from app.report import Report
from app.text import printable


def narrate(report: Report, *, timeline: bool = True) -> str:
    """The whole report in words: result first, then who was held how long, then what happened."""
    lines = [_headline(report)]
    lines += [f"  because    {reason}" for reason in report["because"]]
    if report.get("framework_error"):
        error = report["framework_error"]
        codes = ", ".join(map(str, error["codes"]))
        lines.append(f"  framework  {error['name']} (code {codes}): {error['advice']}")
    lines.append(f"  snapshot   {_snapshot(report['snapshot'])}")
    lines += [f"  hazard     {h['name']}: {_short(h['what'])}" for h in report.get("hazards", ())]
    for application in report["applications"]:
        lines.append(f"  {application['name']:<10} {_application(application)}")
        lines += [
            f"  {'':<10} {name}: {_short(value)}" for name, value in sorted(application["saved"].items())
        ]
    for filesystem in report["filesystems"]:
        lines.append(f"  {filesystem['mount']:<10} {_filesystem(filesystem)}")
    if report["stuck"]:
        lines.append(f"  STUCK      {', '.join(report['stuck'])}: run 'app thaw' and 'app recover'")
    lines += [f"  manifest   not written: {_short(wrong)}" for wrong in report.get("manifest_failed", ())]
    if report.get("not_kept"):
        lines.append(f"  not kept   {report['not_kept']}")
    if timeline and report["timeline"]:
        lines += ["", "    time (s)  what"]
        for entry in report["timeline"]:
            took = f"  ({_seconds(entry['seconds'])})" if "seconds" in entry else ""
            lines.append(f"  {entry['at']:>10.3f}  {_short(entry['text'])}{took}")
    # A server's answer may be anywhere, and hold anything, also what a terminal would obey.
    return "\n".join(map(printable, lines))


def headline(report: Report) -> str:
    """One line for a list of reports."""
    number = f"{report['number']:>4}  " if "number" in report else ""
    return (
        f"{number}{report['started'][:19]}Z  {report['kind']:<4} "
        f"{report['achieved']:<12} of {report['requested']:<12} exit {report['exit']}"
    )


def _headline(report: Report) -> str:
    number = f" (report {report['number']})" if "number" in report else ""
    asked = "" if report["achieved"] == report["requested"] else f", not {report['requested']} as asked for"
    what = " (rehearsal: no snapshot was asked for)" if report["rehearsal"] else ""
    return f"consistency level: {report['achieved']}{asked}{what}{number}"


def _snapshot(snapshot: dict[str, Any]) -> str:
    words = f"{snapshot.get('provider', '')}: {snapshot['state']}"
    if snapshot.get("reference"):
        words += f", {snapshot['reference']}"
    if "seconds" in snapshot and snapshot["state"] == "taken":
        words += f", in {_seconds(snapshot['seconds'])}"
    if snapshot.get("reason"):
        words += f": {snapshot['reason']}"
    return words


def _application(application: dict[str, Any]) -> str:
    held = application["held_seconds"]
    if application["held"]:
        words = "held without a break" + (f" for {_seconds(held)}" if held is not None else "")
    else:
        words = "NOT held" + ("" if application["required"] else " (optional)")
    if application["variant"] and application["variant"] != "default":
        words += f"; {application['variant']}"
    if application["sessions"]:
        words += "; session " + ", ".join(application["sessions"].values())
    return words


def _filesystem(filesystem: dict[str, Any]) -> str:
    if not filesystem["frozen"]:
        return f"not frozen: {filesystem.get('reason', 'the hold ended before')}"
    words = (
        f"frozen for {_seconds(filesystem['held_seconds'])}"
        if filesystem["held_seconds"] is not None
        else "FROZEN"
    )
    if filesystem.get("thawed_by"):
        words += f", thawed by the {filesystem['thawed_by']}"
    return words


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def _short(text: object) -> str:
    return shorten(str(text), 160)
