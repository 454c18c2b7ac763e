"""The framework's host, for rehearsals: runs the compiled scripts as the Azure Backup extension would.

Its rules are those that were published, and where they say nothing what the public extension was measured
to do: ``sh PATH PARAM...``, pipes that nobody reads, two sleeping loops one inside the other, a script that
is late is left to itself, and the post-script runs whatever the pre-script did. Nothing is frozen, and no
snapshot is taken: the time in which the extension would do so is waited for.

One thing is stricter than there. The framework looks at owner and mode of a path, and starts whatever stands
there later; we are root too, and run only what nobody but root could have written (app.host.trust).

Sources: learn.microsoft.com/azure/backup/backup-azure-linux-app-consistent (rules, error names), the
public extension (Azure/azure-linux-extensions, VMBackup) as measured.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import HostUnfit
from app.host import trust

CONFIG = "VMSnapshotScriptPluginConfig.json"
HOST = "VMSnapshotPluginHost.conf"

MOST_SECONDS = 1800
"""The longest time that the framework gives a script."""

APPLICATION, FILESYSTEM, FAILED = "application-consistent", "filesystem-consistent", "failed"
"""What the backup would have become."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Script:
    """How a script ran. ``status``: exit status, None if it was late; ``seconds``: until that was seen."""

    path: str
    status: int | None
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether it counts as failed."""
        return self.status != 0


@dataclass(slots=True)
class Rehearsal:
    """The outcome. ``error``: the published name that would be reported, with its ``code``; None: success."""

    backup: str
    error: str | None = None
    code: int | None = None
    reason: str = ""
    snapshot: bool = True
    scripts: list[Script] = field(default_factory=list)


class Refused(Exception):
    """A check of the framework's failed: published name, code, and what is wrong."""

    def __init__(self, name: str, code: int, what: str) -> None:
        super().__init__(what)
        self.name = name
        self.code = code


@dataclass(frozen=True, slots=True)
class Config:
    """The config as the extension takes it: defaults where a key is absent or out of range."""

    scripts: Mapping[str, str]
    params: Mapping[str, tuple[str, ...]]
    timeout: int
    poll: int
    keep_going: bool
    freeze: bool

    @property
    def lenient(self) -> bool:
        """Whether a failure of a script leaves a lower level to fall back to."""
        return self.keep_going and self.freeze


class Host:
    """The extension of one VM, for the files in ``directory``. ``owner``: who must own them (root)."""

    def __init__(self, directory: str, progress: Progress, owner: int = 0) -> None:
        self._directory = directory
        self._progress = progress
        self._owner = owner
        self._started: list[subprocess.Popen[bytes]] = []

    def rehearse(self, held: Callable[[], None]) -> Rehearsal:
        """One backup; ``held`` is called in place of its snapshot.

        Raises OSError, and HostUnfit where others than root could have written what is to be run.
        """
        config: Config | None = None
        try:
            longest, path = self._host_file()
            if not os.path.lexists(path):
                words = "the config is not there: silently ignored, as if nobody had set the framework up"
                return Rehearsal(FILESYSTEM, reason=f"{path}: {words}")
            config = self._config(path)
            for which, name in (("Pre", config.scripts["pre"]), ("Post", config.scripts["post"])):
                self._check_script(which, name)
            for name in config.scripts.values():
                # Before anything is held: what cannot be released must not be held.
                os.close(_open_script(name))
        except Refused as refused:
            goes_on = config is None or config.lenient
            backup = FILESYSTEM if goes_on else FAILED
            return Rehearsal(backup, refused.name, refused.code, str(refused), snapshot=goes_on)
        return self._run(config, min(config.timeout, longest), held)

    def settle(self, seconds: float) -> bool:
        """Wait for scripts that were late, and are left to themselves; False if one is not done by then."""
        end = time.monotonic() + seconds
        for process in self._started:
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()  # whoever waits for us to read waits no more
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        return all(process.returncode is not None for process in self._started)

    def _run(self, config: Config, limit: int, held: Callable[[], None]) -> Rehearsal:
        outcome = Rehearsal(FILESYSTEM)
        try:
            pre = self._script("pre", config, limit)
            outcome.scripts.append(pre)
            if pre.failed:
                self._report(outcome, pre, "Pre")
            outcome.snapshot = not pre.failed or config.lenient
            if outcome.snapshot:
                self._progress("the time of the snapshot begins")
                held()
                self._progress("the time of the snapshot is over")
        finally:
            # Also where the pre-script failed, where nothing was taken, and where somebody interrupts us.
            post = self._script("post", config, limit)
            outcome.scripts.append(post)
        if post.failed:
            self._report(outcome, post, "Post")
        if not outcome.snapshot or (post.failed and not config.lenient):
            outcome.backup = FAILED
        elif outcome.error is None:
            outcome.backup = APPLICATION
        return outcome

    @staticmethod
    def _report(outcome: Rehearsal, script: Script, which: str) -> None:
        if outcome.error is not None:
            return  # the first error is the one that is reported
        late = script.status is None
        outcome.error = f"{which}-ScriptTimeout" if late else f"{which}-ScriptExecutionFailed"
        first = 308 if late else 300
        outcome.code = first if which == "Pre" else first + 1
        outcome.reason = (
            f"{script.path} was not done in its time, and goes on by itself"
            if late
            else f"{script.path} ended with status {script.status}"
        )

    def _script(self, which: str, config: Config, limit: int) -> Script:
        path = config.scripts[which]
        self._progress(f"{which}-script: sh {path}, {limit} s at most")
        # Looked at again, and run by the descriptor that was looked at: it may have been exchanged meanwhile.
        script = _open_script(path, "app post releases what is held" if which == "post" else "")
        try:
            begun = time.monotonic()
            process = subprocess.Popen(
                ["sh", f"/proc/self/fd/{script}", *config.params[which]],
                pass_fds=[script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        finally:
            os.close(script)
        self._started.append(process)
        while True:
            time.sleep(config.poll)
            status = process.poll()
            if status is not None or time.monotonic() - begun >= limit:
                break
        # The outer loop watches the inner one with the same period, and is one period behind.
        time.sleep(config.poll)
        seconds = time.monotonic() - begun
        how = "was not done in its time" if status is None else f"exit {status}"
        self._progress(f"{which}-script: {how}, seen after {seconds:.1f} s")
        return Script(path, status, round(seconds, 3))

    # --- files -------------------------------------------------------------------------------------

    def _host_file(self) -> tuple[int, str]:
        path = f"{self._directory}/{HOST}"
        default = f"{self._directory}/{CONFIG}"
        try:
            state = os.stat(path)
        except FileNotFoundError:
            return MOST_SECONDS, default
        if state.st_uid != self._owner or state.st_mode & 0o033:
            raise Refused("IncorrectPluginhostFile", 304, f"{path}: owner or mode")
        try:
            parser = configparser.ConfigParser()
            parser.read_string(_read(path, None))
            seconds = parser.getint("pre_post", "timeoutInSeconds")
            plugins = parser.getint("pre_post", "numberOfPlugins")
            name = parser.get("pre_post", "pluginName0")
            where = parser.get("pre_post", "pluginConfigPath0")
        except (ValueError, configparser.Error) as error:
            raise Refused("IncorrectPluginhostFile", 313, f"{path}: {error}") from None
        if plugins < 1 or name != "ScriptRunner":
            raise Refused("IncorrectPluginhostFile", 314, f"{path}: no plugin ScriptRunner")
        return seconds, where if where.endswith(".json") else f"{where}/{CONFIG}"

    def _config(self, path: str) -> Config:
        state = os.stat(path)
        if state.st_uid != self._owner or stat.S_IMODE(state.st_mode) != 0o600:
            raise Refused("IncorrectJSONConfigFile", 305, f"{path}: owner or mode")
        try:
            raw: dict[str, Any] = json.loads(_read(path, 0o600))
            if raw["pluginName"] != "ScriptRunner":
                raise ValueError(f"pluginName {raw['pluginName']!r}")
            poll = raw.get("ScriptsExecutionPollTimeSeconds")
            return Config(
                {which: str(raw[f"{which}ScriptLocation"]) for which in ("pre", "post")},
                {which: tuple(map(str, raw.get(f"{which}ScriptParams", []))) for which in ("pre", "post")},
                min(int(raw.get("timeoutInSeconds", 10)), MOST_SECONDS),
                poll if type(poll) is int and 1 <= poll <= 5 else 3,
                bool(raw["continueBackupOnFailure"]),
                bool(raw["fsFreezeEnabled"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Refused("IncorrectJSONConfigFile", 316, f"{path}: {error}") from None

    def _check_script(self, which: str, path: str) -> None:
        pre = which == "Pre"
        try:
            state = os.stat(path)
        except OSError as error:
            code = 302 if pre else 303
            raise Refused(f"{which}-ScriptNotFound", code, f"{path}: {error.strerror}") from None
        if state.st_uid != self._owner or stat.S_IMODE(state.st_mode) != 0o700:
            code = 306 if pre else 307
            raise Refused(f"InsufficientPermissionfor{which}-Script", code, f"{path}: owner or mode")


def _read(path: str, mode: int | None) -> str:
    """What says which scripts are run, and with which arguments: it must be root's as they are."""
    return trust.read_trusted(path, mode, max_bytes=1 << 20).decode("utf-8", "replace")


def _open_script(path: str, way_out: str = "") -> int:
    """A script that nobody but root could have written; the caller closes it. Raises HostUnfit."""
    try:
        return trust.open_trusted(path, mode=0o700)
    except HostUnfit as error:
        hint = "; ".join(part for part in (error.hint, way_out) if part)
        raise HostUnfit(f"not run: {error.message}", hint) from None
