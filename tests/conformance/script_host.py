"""The extension's script host, re-created from measured and published facts, to run compiled pairs under.

It is the other side of ``app``'s contract: what it does here is what the extension was measured to
do, habits included that look like faults (pipes never read, scripts never killed, retries never
made). Nothing of ``app`` is imported, so that both can be wrong in different ways.

``rules`` chooses between the published rule (exact modes 600 and 700) and the measured one, which
objects to less: no bits for group and others, and for the config no owner-execute bit.
"""

from __future__ import annotations

import configparser
import contextlib
import enum
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.conformance.safe_freeze import safe_freeze

CONFIG = "VMSnapshotScriptPluginConfig.json"
HOST = "VMSnapshotPluginHost.conf"
BACKUP = "vmbackup.conf"

DEFAULT_TIMEOUT = 10
DEFAULT_POLL = 3
MOST_TIMEOUT = 1800
DEFAULT_FREEZE_SECONDS = 60


class Backup(enum.Enum):
    """What the backup became."""

    APPLICATION = "application-consistent"
    FILESYSTEM = "filesystem-consistent"
    CRASH = "crash-consistent"
    FAILED = "failed"


@dataclass
class ScriptRun:
    """Facts of one script: seconds are the host's own, from start to where it noticed the end."""

    argv: list[str]
    process: subprocess.Popen[bytes]
    status: int | None = None
    timed_out: bool = False
    seconds: float = 0.0
    output: bytes = b""

    @property
    def failed(self) -> bool:
        """Whether the host counts it as failed."""
        return self.timed_out or self.status != 0

    def pipes_held(self) -> bool:
        """Whether any process still holds the write end of stdout or stderr; empties both into ``output``.

        To be asked when all is over: the extension itself never reads.
        """
        held = False
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            while True:
                try:
                    data = os.read(pipe.fileno(), 65536)
                except BlockingIOError:
                    held = True
                    break
                if not data:
                    break
                self.output += data
        return held

    def close(self) -> None:
        """Let go of the pipes; the script, if it still runs, is killed: a test must end."""
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@dataclass
class Result:
    """The outcome of one backup. ``error`` and ``code`` are None where nothing is reported."""

    backup: Backup
    error: str | None = None
    code: int | None = None
    pre: ScriptRun | None = None
    post: ScriptRun | None = None
    frozen: bool = False
    snapshot: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Config:
    """The JSON config as the extension takes it: defaults where a key is absent or out of range."""

    pre: str
    post: str
    pre_params: list[str]
    post_params: list[str]
    timeout: int
    poll: int
    keep_going: bool
    freeze: bool


class Refused(Exception):
    """A check failed: the published name and one of its codes."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(name)
        self.name = name
        self.code = code


Freezer = Callable[[float], contextlib.AbstractContextManager[None]]


class ScriptHost:
    """One VM's extension. ``shell`` is what its ``sh`` is: ["dash"], ["busybox", "sh"], ["bash", "--posix"].

    ``scale`` shortens every clock of the host (polls, timeouts, waits), not those of the scripts.
    ``mounts`` are frozen for real, in mount order as given, less those that vmbackup.conf skips; or
    ``freeze`` is called instead, with the seconds that a freeze may last: a context while frozen,
    OSError where freezing fails. ``disks``: a VM with one falls back to crash-consistent
    where others fail. ``log`` is appended to and synced between all steps, as the extension's is.
    """

    def __init__(
        self,
        folder: Path,
        shell: Sequence[str] = ("sh",),
        *,
        rules: str = "published",
        scale: float = 1.0,
        mounts: Sequence[Path | str] = (),
        freeze: Freezer | None = None,
        snapshot: Callable[[], None] = lambda: None,
        disks: int = 2,
        owner: int = 0,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        assert rules in ("published", "measured")
        self.folder = folder
        self.shell = list(shell)
        self.rules = rules
        self.scale = scale
        self.mounts = list(mounts)
        self.freeze = freeze or self._safe_freeze
        self.snapshot = snapshot
        self.disks = disks
        self.owner = owner
        self.environment = environment
        self.log = log
        self.runs: list[ScriptRun] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self.runs:
            run.close()

    # --- the backup --------------------------------------------------------------------------------

    def backup(self) -> Result:
        """One backup, from the checks to the post-script."""
        result = Result(Backup.FILESYSTEM)
        config: Config | None = None
        try:
            host_timeout, where = self._host_file()
            self._note("plugin host read")
            if not where.exists():
                # Silently: as if nobody had set the framework up.
                self._take(result, freeze=True)
                return result
            config = self._config(where)
            for which, script in (("Pre", config.pre), ("Post", config.post)):
                self._check_script(which, script)
        except Refused as refused:
            result.error, result.code = refused.name, refused.code
            if config is None or (config.keep_going and config.freeze):
                self._take(result, freeze=True)
            else:
                self._give_up(result)
            return result
        self._run(result, config, host_timeout)
        return result

    def _run(self, result: Result, config: Config, host_timeout: int) -> None:
        result.pre = self._script(config.pre, config.pre_params, config, host_timeout)
        if result.pre.failed:
            self._report(result, result.pre, "Pre")
        if not result.pre.failed or (config.keep_going and config.freeze):
            self._take(result, config.freeze)
        else:
            self._give_up(result)
        # Also where the pre-script failed or timed out, and where no snapshot was taken.
        result.post = self._script(config.post, config.post_params, config, host_timeout)
        if result.post.failed:
            self._report(result, result.post, "Post")
            if not (config.keep_going and config.freeze):
                result.backup = Backup.FAILED
        elif result.error is None and result.snapshot and (result.frozen or not config.freeze):
            result.backup = Backup.APPLICATION

    def _take(self, result: Result, freeze: bool) -> None:
        self._note("before the snapshot")
        with contextlib.ExitStack() as stack:
            if freeze:
                try:
                    stack.enter_context(self.freeze(self._freeze_seconds()))
                    result.frozen = True
                except OSError as error:
                    result.backup = Backup.CRASH
                    result.notes.append(f"freeze failed: {error}")
            try:
                self.snapshot()
                result.snapshot = True
            except OSError as error:
                result.backup = Backup.FAILED
                result.notes.append(f"snapshot failed: {error}")
        self._note("after the snapshot")

    def _give_up(self, result: Result) -> None:
        """No snapshot; only a VM with one disk gets one all the same, without a freeze."""
        if self.disks == 1:
            self._take(result, freeze=False)
            result.backup = Backup.CRASH
        else:
            result.backup = Backup.FAILED

    @staticmethod
    def _report(result: Result, run: ScriptRun, which: str) -> None:
        if result.error is not None:
            return  # the first error is the one that is reported
        if run.timed_out:
            result.error, result.code = f"{which}-ScriptTimeout", 308 if which == "Pre" else 309
        else:
            result.error, result.code = f"{which}-ScriptExecutionFailed", 300 if which == "Pre" else 301

    # --- scripts -----------------------------------------------------------------------------------

    def _script(self, path: str, params: list[str], config: Config, host_timeout: int) -> ScriptRun:
        argv = [*self.shell, path, *params]
        started = time.monotonic()
        # In our own process group, with pipes that nobody ever reads.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if self.environment is None else dict(self.environment),
        )
        run = ScriptRun(argv, process)
        self.runs.append(run)
        poll, limit = config.poll * self.scale, min(config.timeout, host_timeout) * self.scale
        # The inner loop watches the script, and never kills it.
        while True:
            time.sleep(poll)
            run.status = process.poll()
            if run.status is not None:
                break
            if time.monotonic() - started >= limit:
                run.timed_out = True
                break
        # The outer loop watches the inner one with the same period, so it is one period behind.
        time.sleep(poll)
        run.seconds = time.monotonic() - started
        return run

    # --- files -------------------------------------------------------------------------------------

    def _host_file(self) -> tuple[int, Path]:
        path = self.folder / HOST
        default = self.folder / CONFIG
        try:
            state = path.stat()
        except FileNotFoundError:
            return MOST_TIMEOUT, default
        if state.st_uid != self.owner or state.st_mode & 0o033:
            raise Refused("IncorrectPluginhostFile", 304)
        try:
            parser = configparser.ConfigParser()
            parser.read_string(path.read_text())
            seconds = parser.getint("pre_post", "timeoutInSeconds")
            plugins = parser.getint("pre_post", "numberOfPlugins")
            name = parser.get("pre_post", "pluginName0")
            parser.get("pre_post", "pluginPath0")
            where = Path(parser.get("pre_post", "pluginConfigPath0"))
        except (ValueError, configparser.Error) as error:
            raise Refused("IncorrectPluginhostFile", 313) from error
        if plugins < 1 or name != "ScriptRunner":
            raise Refused("IncorrectPluginhostFile", 314)
        return seconds, where if where.suffix == ".json" else where / CONFIG

    def _config(self, path: Path) -> Config:
        state = path.stat()
        mode = state.st_mode & 0o7777
        wrong = mode != 0o600 if self.rules == "published" else mode & 0o177
        if state.st_uid != self.owner or wrong:
            raise Refused("IncorrectJSONConfigFile", 305)
        try:
            raw = json.loads(path.read_text())
            if raw["pluginName"] != "ScriptRunner":
                raise ValueError(raw["pluginName"])
            return Config(
                str(raw["preScriptLocation"]),
                str(raw["postScriptLocation"]),
                [str(item) for item in raw.get("preScriptParams", [])],
                [str(item) for item in raw.get("postScriptParams", [])],
                min(int(raw.get("timeoutInSeconds", DEFAULT_TIMEOUT)), MOST_TIMEOUT),
                _poll(raw.get("ScriptsExecutionPollTimeSeconds")),
                bool(raw["continueBackupOnFailure"]),
                bool(raw["fsFreezeEnabled"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Refused("IncorrectJSONConfigFile", 316) from error

    def _check_script(self, which: str, path: str) -> None:
        pre = which == "Pre"
        try:
            state = os.stat(path)
        except OSError as error:
            raise Refused(f"{which}-ScriptNotFound", 302 if pre else 303) from error
        mode = state.st_mode & 0o7777
        wrong = mode != 0o700 if self.rules == "published" else mode & 0o077
        if state.st_uid != self.owner or wrong:
            raise Refused(f"InsufficientPermissionfor{which}-Script", 306 if pre else 307)

    def _settings(self) -> Mapping[str, str]:
        parser = configparser.ConfigParser()
        parser.read(self.folder / BACKUP)
        return parser["SnapshotThread"] if parser.has_section("SnapshotThread") else {}

    def _freeze_seconds(self) -> float:
        return float(self._settings().get("timeout", DEFAULT_FREEZE_SECONDS)) * self.scale

    def _safe_freeze(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        mounts = [mount for mount in self.mounts if str(mount) not in self._skipped()]
        return safe_freeze(self.folder, mounts, seconds, self.scale)

    def _skipped(self) -> list[str]:
        return [part.strip() for part in self._settings().get("MountsToSkip", "").split(",") if part.strip()]

    def _note(self, line: str) -> None:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())


def _poll(value: Any) -> int:
    """Strictly an integer from 1 to 5; anything else silently becomes 3."""
    return value if type(value) is int and 1 <= value <= 5 else DEFAULT_POLL
