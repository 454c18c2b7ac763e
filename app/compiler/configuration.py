"""The files that a plan becomes. Paths are as the running VM sees them; nothing is written here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from app.compiler import scripts
from app.compiler.vm import DEFAULT_FREEZE_SECONDS, DEFAULT_FREEZE_WAIT_SECONDS, Extension
from app.files import File
from app.paths import BINARY, CONFIG_DIRECTORY
from app.plan import Plan

CONFIG = "VMSnapshotScriptPluginConfig.json"
FREEZE_CONFIG = "vmbackup.conf"
FOLDER = "stillframe"

PRIVATE = 0o600
SCRIPT = 0o700


def compile_files(
    plan: Plan, extension: Extension, *, directory: str = CONFIG_DIRECTORY, binary: str = BINARY
) -> list[File]:
    """Every file of a compiled VM, the manifest last, sorted otherwise by path.

    ``directory`` and ``binary`` are full paths as the running VM sees them.
    """
    own = f"{directory.rstrip('/')}/{FOLDER}"
    pre = extension.pre_location or f"{own}/pre.sh"
    post = extension.post_location or f"{own}/post.sh"
    limit = plan.framework.timeout_seconds
    files = [
        File(
            f"{directory.rstrip('/')}/{CONFIG}", PRIVATE, _json(framework_config(plan, extension, pre, post))
        ),
        File(f"{own}/plan.json", PRIVATE, plan.to_json().encode()),
        File(pre, SCRIPT, scripts.pre_script(binary=binary, directory=directory, limit=limit).encode()),
        File(post, SCRIPT, scripts.post_script(binary=binary, directory=directory, limit=limit).encode()),
    ]
    if extension.changes_freeze:
        files.append(File(freeze_config_path(directory), PRIVATE, freeze_config(extension).encode()))
    files.sort(key=lambda file: file.path)
    return [*files, File(manifest_path(directory), PRIVATE, _json(manifest(files, binary)))]


def manifest_path(directory: str) -> str:
    """Where the manifest stands."""
    return f"{directory.rstrip('/')}/{FOLDER}/manifest.json"


def freeze_config_path(directory: str) -> str:
    """Where the extension looks for its freeze settings."""
    return f"{directory.rstrip('/')}/{FREEZE_CONFIG}"


def framework_config(plan: Plan, extension: Extension, pre: str, post: str) -> dict[str, Any]:
    """Every key of the framework's config, by its published name."""
    framework = plan.framework
    config = {
        "pluginName": "ScriptRunner",
        "preScriptLocation": pre,
        "postScriptLocation": post,
        "preScriptParams": list(framework.pre_params),
        "postScriptParams": list(framework.post_params),
        "preScriptNoOfRetries": framework.pre_retries,
        "postScriptNoOfRetries": framework.post_retries,
        "timeoutInSeconds": framework.timeout_seconds,
        "continueBackupOnFailure": framework.continue_backup_on_failure,
        "fsFreezeEnabled": plan.freeze.enabled,
        "ScriptsExecutionPollTimeSeconds": framework.poll_seconds,
    }
    return config if extension.app_name is None else {**config, "appName": extension.app_name}


def freeze_config(extension: Extension) -> str:
    """``vmbackup.conf``: only keys that a policy sets, so that the extension's defaults stay its own.

    ``seqsnapshot`` is 2 for "sequential, set by the customer" (1 is the extension's own note).
    """
    timeout, wait = extension.freeze_timeout, extension.freeze_wait
    if timeout is not None and timeout != DEFAULT_FREEZE_SECONDS and wait is None:
        # The extension must not give up waiting before its own freeze is over.
        wait = timeout + DEFAULT_FREEZE_WAIT_SECONDS - DEFAULT_FREEZE_SECONDS
    sequential = extension.sequential_snapshot
    entries = (
        ("timeout", timeout),
        ("SafeFreezeWaitInSeconds", wait),
        ("MountsToSkip", ",".join(extension.mounts_to_skip) or None),
        ("seqsnapshot", None if sequential is None else 2 if sequential else 0),
        ("OnAppFailureDoFsFreeze", extension.on_app_failure_do_fs_freeze),
        ("OnAppSuccessDoFsFreeze", extension.on_app_success_do_fs_freeze),
    )
    lines = [f"{key} = {value}" for key, value in entries if value is not None]
    return "\n".join(["[SnapshotThread]", *lines]) + "\n"


def manifest(files: Sequence[File], binary: str) -> dict[str, Any]:
    """What ``app verify`` holds the disk against: mode and sha256 of each file, and the executable's path."""
    return {
        "version": 1,
        "binary": binary,
        "files": {
            file.path: {"mode": f"{file.mode:04o}", "sha256": hashlib.sha256(file.content).hexdigest()}
            for file in files
        },
    }


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
