"""One base error with a hint and an exit status, and the framework's own error table.

Errors are values: raised where they are known, printed in one place (``app.cli``).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Exit(enum.IntEnum):
    """Exit statuses of ``app``, as published in the README."""

    DONE = 0
    DIFFERS = 1
    USAGE = 2
    POLICY = 3
    HOST = 4
    BUSY = 5
    SNAPSHOT = 6
    STUCK = 7
    INTERRUPTED = 130


class StillframeError(Exception):
    """What went wrong in one sentence, what would be right, and the exit status for it."""

    status = Exit.DIFFERS

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def reason_of(error: BaseException) -> str:
    """An error and what would be right in one line, for a report; "" where it says nothing."""
    if isinstance(error, StillframeError) and error.hint:
        return f"{error.message} ({error.hint})"
    return str(error)


class LevelNotReached(StillframeError):
    """The hold or the snapshot did not reach the consistency level that was asked for."""

    status = Exit.DIFFERS


class Misused(StillframeError):
    """The command was called wrongly."""

    status = Exit.USAGE


class HostUnfit(StillframeError):
    """Permissions, privileges or hazards on this machine forbid the work."""

    status = Exit.HOST


class Busy(StillframeError):
    """Another hold is running, or somebody else has frozen a filesystem."""

    status = Exit.BUSY


class SnapshotFailed(StillframeError):
    """No snapshot was taken; everything was thawed and released."""

    status = Exit.SNAPSHOT


class Stuck(StillframeError):
    """Something could not be thawed or released. Outranks every other error."""

    status = Exit.STUCK


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a policy: where (file, line, key), what, and what would be right."""

    file: str
    line: int | None
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        key = f" [{self.key}]" if self.key else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{place}:{key} {self.message}{hint}"


class PolicyInvalid(StillframeError):
    """Every problem of every policy at once."""

    status = Exit.POLICY

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


@dataclass(frozen=True, slots=True)
class FrameworkError:
    """An error of the Azure Backup script framework: published name, codes, advice.

    Source: "Application-consistent backup of Azure Linux VMs", section Troubleshooting
    (learn.microsoft.com/azure/backup/backup-azure-linux-app-consistent), and the codes in
    the public extension's ``ScriptRunner`` error enumeration.
    """

    name: str
    codes: tuple[int, ...]
    advice: str


_TABLE = (
    FrameworkError(
        "Pre-ScriptExecutionFailed",
        (300,),
        "The pre-script returned an error, so the backup may not be application-consistent. "
        "Look at the failure logs of the script to fix the issue.",
    ),
    FrameworkError(
        "Post-ScriptExecutionFailed",
        (301,),
        "The post-script returned an error that may affect the application's state. "
        "Look at the failure logs of the script and check the application's state.",
    ),
    FrameworkError(
        "Pre-ScriptNotFound",
        (302,),
        "The pre-script was not found at the location given in the config file. "
        "Make sure that the pre-script is present at the path named by preScriptLocation.",
    ),
    FrameworkError(
        "Post-ScriptNotFound",
        (303,),
        "The post-script was not found at the location given in the config file. "
        "Make sure that the post-script is present at the path named by postScriptLocation.",
    ),
    FrameworkError(
        "IncorrectPluginhostFile",
        (304, 313, 314),
        "The Pluginhost file that comes with the VMSnapshotLinux extension is damaged, so the "
        "scripts cannot run and the backup is not application-consistent. "
        "Uninstall the extension; the next backup installs it again.",
    ),
    FrameworkError(
        "IncorrectJSONConfigFile",
        (305, 316, 317),
        "VMSnapshotScriptPluginConfig.json is wrong, so the scripts cannot run and the backup is "
        "not application-consistent. Write the file again (app compile) and set it up again.",
    ),
    FrameworkError(
        "InsufficientPermissionforPre-Script",
        (306,),
        'The pre-script must be owned by root and have mode "700": only the owner may read, '
        "write and execute it.",
    ),
    FrameworkError(
        "InsufficientPermissionforPost-Script",
        (307,),
        'The post-script must be owned by root and have mode "700": only the owner may read, '
        "write and execute it.",
    ),
    FrameworkError(
        "Pre-ScriptTimeout",
        (308, 310),
        "The pre-script timed out. Check the script, and raise timeoutInSeconds in "
        "VMSnapshotScriptPluginConfig.json (framework.timeout_seconds of the policy).",
    ),
    FrameworkError(
        "Post-ScriptTimeout",
        (309, 311),
        "The post-script timed out. Check the script, and raise timeoutInSeconds in "
        "VMSnapshotScriptPluginConfig.json (framework.timeout_seconds of the policy).",
    ),
)

FRAMEWORK_ERRORS = {entry.name: entry for entry in _TABLE}
"""The ten documented errors of the framework, by published name."""
