"""The two INI files of the extension that may stand beside the config: host and backup settings.

Neither need be there. Known keys are judged by what the extension was measured to do with them;
keys that it may have beyond those are left alone.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable, Mapping

from app.errors import HostUnfit
from app.host import trust
from app.verify.config import CONFIG, Config
from app.verify.finding import Findings, Outcome

HOST = "VMSnapshotPluginHost.conf"
BACKUP = "vmbackup.conf"
BAD_HOST = "IncorrectPluginhostFile"

_HOST_EFFECT = "no script runs; the backup goes on, filesystem-consistent"
_BACKUP_EFFECT = "the extension may freeze for another time, or other mounts, than was compiled"


def check_host(directory: str, config: Config, found: Findings) -> None:
    """Check VMSnapshotPluginHost.conf; where it is absent the extension's own copy serves."""
    path = f"{directory}/{HOST}"
    values = _section(path, "pre_post", Outcome("", "", BAD_HOST, _HOST_EFFECT, _HOST_EFFECT), found)
    if values is None:
        return
    repair = f"mend it, or remove it: the extension has a copy of its own (rm {found.root}{path})"

    def wrong(what: str, effect: str = _HOST_EFFECT) -> None:
        found.error(path, what, effect, repair, BAD_HOST)

    seconds = _integer(values.get("timeoutinseconds", ""))
    if seconds is None or seconds < 1:
        wrong(f"timeoutInSeconds is {values.get('timeoutinseconds', 'missing')}, want a number of seconds")
    elif seconds < config.timeout:
        wrong(
            f"timeoutInSeconds is {seconds}, less than the {config.timeout} of {CONFIG}",
            "the scripts may be reported as timed out before their own time is over",
        )
    number = _integer(values.get("numberofplugins", ""))
    if number is None or number < 1:
        wrong(f"numberOfPlugins is {values.get('numberofplugins', 'missing')}, want 1 or more")
    if values.get("pluginname0") != "ScriptRunner":
        wrong(f"pluginName0 is {values.get('pluginname0', 'missing')}, want ScriptRunner")
    if not values.get("pluginpath0"):
        wrong("pluginPath0 is missing")
    where = values.get("pluginconfigpath0", "")
    # The folder, as the extension's own copy has it, or the file in it.
    if where.rstrip("/") not in (directory, f"{directory}/{CONFIG}"):
        wrong(
            f"pluginConfigPath0 is {where or 'missing'}, want {directory}",
            "the extension reads a config that is not ours: our scripts never run",
        )


def check_backup(directory: str, found: Findings) -> None:
    """Check vmbackup.conf, where somebody has one."""
    path = f"{directory}/{BACKUP}"
    values = _section(path, "SnapshotThread", Outcome("", "", "", _BACKUP_EFFECT, _BACKUP_EFFECT), found)
    if values is None:
        return
    for key, (accepts, want) in _BACKUP_KEYS.items():
        if key.lower() in values and not accepts(values[key.lower()]):
            shown = values[key.lower()][:80]
            found.error(path, f"{key} is {shown!r}, want {want}", _BACKUP_EFFECT, "app compile, or mend it")
    freeze, wait = (_integer(values.get(key, "")) for key in ("timeout", "safefreezewaitinseconds"))
    if (freeze or 60) > (wait or 66):
        found.warn(
            path,
            f"SafeFreezeWaitInSeconds ({wait or 66}) is less than timeout ({freeze or 60})",
            "the extension stops waiting while filesystems may still be frozen",
            "make SafeFreezeWaitInSeconds the larger one",
        )


def _section(path: str, name: str, own: Outcome, found: Findings) -> Mapping[str, str] | None:
    """The keys (lower case) of one section; None where there is no file, or no use in it."""
    descriptor, flaws = trust.examine(path, root=found.root)
    try:
        if any(flaw.kind == trust.MISSING for flaw in flaws):
            return None
        found.flaws(path, flaws, own, None)
        if descriptor < 0:
            return None
        text = trust.read_open(descriptor, path).decode("utf-8")
        # Group and others at most read; write bits are the walk's own finding.
        state = os.fstat(descriptor)
        if state.st_mode & 0o011 and own.wrong:
            mode = f"{state.st_mode & 0o7777:o}"
            repair = f"chmod go-wx {found.root}{path}"
            found.error(
                path, f"mode {mode}: group and others may at most read", own.effect_wrong, repair, own.wrong
            )
        # As the extension reads it: Python's own defaults, interpolation included.
        parser = configparser.ConfigParser()
        parser.read_string(text, path)
        if not parser.has_section(name):
            raise ValueError(f"no section [{name}]")
        return dict(parser.items(name))
    except (ValueError, configparser.Error) as error:
        message = str(error).replace("\n", " ")
        found.error(
            path, f"cannot be parsed: {message}", own.effect_wrong, "mend it, or remove it", own.wrong
        )
    except HostUnfit as error:
        found.error(path, error.message, own.effect_wrong, error.hint, own.wrong)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def _integer(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _is_seconds(text: str) -> bool:
    return (_integer(text) or 0) >= 1


def _is_switch(text: str) -> bool:
    return text.lower() in ("true", "false", "0", "1", "yes", "no", "on", "off")


def _is_mounts(text: str) -> bool:
    return all(part.strip().startswith("/") for part in text.split(",") if part.strip())


_BACKUP_KEYS: dict[str, tuple[Callable[[str], bool], str]] = {
    "timeout": (_is_seconds, "a number of seconds from 1"),
    "SafeFreezeWaitInSeconds": (_is_seconds, "a number of seconds from 1"),
    "MountsToSkip": (_is_mounts, "full paths with commas between"),
    "seqsnapshot": (lambda text: _integer(text) is not None, "a number"),
    "OnAppFailureDoFsFreeze": (_is_switch, "true or false"),
    "OnAppSuccessDoFsFreeze": (_is_switch, "true or false"),
}
