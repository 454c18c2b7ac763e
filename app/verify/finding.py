"""What ``app verify`` says about one thing that is wrong, in words for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.errors import FRAMEWORK_ERRORS, HostUnfit
from app.host import trust

ERROR, WARNING = "error", "warning"

PRE_FAILS = "Pre-ScriptExecutionFailed"
"""What is reported where the extension looks away and 'app pre' refuses instead."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    ``severity`` is ERROR (pre, post and run refuse) or WARNING. ``framework`` is the published name
    of the error that the fault comes under, "" where it comes under none. ``what`` is wrong at
    ``path``; ``effect`` is what the next backup would be; ``advice`` the published one; ``repair``
    a command or what to do. ``kind`` and ``mode`` (wanted) serve ``--fix``; ``kind`` is a word of
    ``app.host.trust``, or "content".
    """

    severity: str
    framework: str
    path: str
    what: str
    effect: str
    repair: str
    kind: str = "content"
    mode: int | None = None

    @property
    def advice(self) -> str:
        """The framework's published advice; "" where no published error applies."""
        return FRAMEWORK_ERRORS[self.framework].advice if self.framework else ""

    @property
    def codes(self) -> tuple[int, ...]:
        """The framework's codes for the error; () where none applies."""
        return FRAMEWORK_ERRORS[self.framework].codes if self.framework else ()

    def to_json(self) -> dict[str, Any]:
        """JSON values for programs."""
        return {
            "severity": self.severity,
            "framework_error": self.framework or None,
            "framework_codes": list(self.codes),
            "path": self.path,
            "what": self.what,
            "effect": self.effect,
            "advice": self.advice,
            "repair": self.repair,
        }

    def __str__(self) -> str:
        name = f"  [{self.framework} {'/'.join(map(str, self.codes))}]" if self.framework else ""
        lines = [f"{self.severity}: {self.path}: {self.what}{name}"]
        lines += [
            f"    {label}: {text}"
            for label, text in (("then", self.effect), ("advice", self.advice), ("repair", self.repair))
            if text
        ]
        return "\n".join(lines)


def refusal(findings: list[Finding]) -> HostUnfit | None:
    """The errors among ``findings`` as one exception; None where there are only warnings."""
    errors = [finding for finding in findings if finding.severity == ERROR]
    if not errors:
        return None
    more = f" (and {len(errors) - 1} more: app verify)" if len(errors) > 1 else ""
    return HostUnfit(f"{errors[0].path}: {errors[0].what}{more}", errors[0].repair)


class Findings:
    """Collects findings, each place and fault once, however many files share a wrong folder."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.all: list[Finding] = []
        self._seen: set[tuple[str, str, str]] = set()

    def add(self, finding: Finding) -> None:
        """Take one finding, unless it was made before."""
        key = (finding.path, finding.kind, finding.what)
        if key not in self._seen:
            self._seen.add(key)
            self.all.append(finding)

    def error(self, path: str, what: str, effect: str, repair: str, framework: str = "") -> None:
        """An error about the content of ``path`` (as the VM sees it)."""
        self.add(Finding(ERROR, framework, self.root + path, what, effect, repair))

    def warn(self, path: str, what: str, effect: str, repair: str, framework: str = "") -> None:
        """A warning about the content of ``path``."""
        self.add(Finding(WARNING, framework, self.root + path, what, effect, repair))

    def flaws(self, path: str, flaws: list[trust.Flaw], own: Outcome, mode: int | None) -> None:
        """Flaws of a walk to ``path``: the file's own by ``own``, the others by law 6."""
        for flaw in flaws:
            severity, framework, effect = ERROR, PRE_FAILS, own.effect_refused
            place, what, wanted = flaw.path, flaw.message, None
            if flaw.kind == trust.MISSING:
                framework, effect = own.missing, own.effect_missing
                place, what = self.root + path, "does not exist"
            elif flaw.kind == trust.LINKS:
                # Nobody can write through a second name who could not write through the first.
                severity, framework, effect, wanted = WARNING, "", "nothing", mode
            elif flaw.own and flaw.kind in (trust.OWNER, trust.MODE, trust.WRITABLE, trust.TYPE):
                framework, wanted = own.wrong, mode
                effect = own.effect_passed if own.passes(flaw) else own.effect_wrong
            self.add(Finding(severity, framework, place, what, effect, flaw.repair, flaw.kind, wanted))


@dataclass(frozen=True, slots=True)
class Outcome:
    """For one kind of file: the published errors and the effects if it is missing, wrong, refused.

    ``lenient``: the permission bits that the extension was measured to object to, where that is
    less than its published rule of one exact mode; None where it does not look at the file.
    """

    missing: str
    effect_missing: str
    wrong: str
    effect_wrong: str
    effect_refused: str
    lenient: int | None = None

    @property
    def effect_passed(self) -> str:
        """The effect where the published rule is broken and the extension still goes on."""
        passed = "against the published rule; the extension was measured to let it pass"
        return f"{passed}, but {self.effect_refused}"

    def passes(self, flaw: trust.Flaw) -> bool:
        """Whether the extension would let a wrong mode pass."""
        return self.lenient is not None and flaw.found is not None and not flaw.found & self.lenient
