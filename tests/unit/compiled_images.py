"""Images with compiled files in them, as ``app verify`` finds them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from app import install, plan, verify
from app.errors import FRAMEWORK_ERRORS
from app.files import File

NOBODY = 65534
AZURE = "/etc/azure"
CONFIG = f"{AZURE}/VMSnapshotScriptPluginConfig.json"
OWN = f"{AZURE}/stillframe"


def empty_plan() -> str:
    return plan.Plan(
        applications=(),
        freeze=plan.Freeze(True, (), (), 60),
        snapshot=plan.Snapshot("none", {}),
        framework=plan.Framework(600, 1, True, (), (), 0, 0),
    ).to_json()


def make_config(**changes: Any) -> dict[str, Any]:
    config = {
        "pluginName": "ScriptRunner",
        "preScriptLocation": f"{OWN}/pre.sh",
        "postScriptLocation": f"{OWN}/post.sh",
        "preScriptParams": [],
        "postScriptParams": [],
        "preScriptNoOfRetries": 0,
        "postScriptNoOfRetries": 0,
        "timeoutInSeconds": 600,
        "continueBackupOnFailure": True,
        "fsFreezeEnabled": True,
        "ScriptsExecutionPollTimeSeconds": 1,
    }
    return {key: value for key, value in {**config, **changes}.items() if value is not ...}


def compile_to(image: Path, config: Any = None, text: str | None = None) -> None:
    content = text if text is not None else json.dumps(config or make_config())
    files = [
        File(CONFIG, 0o600, content.encode()),
        File(f"{OWN}/pre.sh", 0o700, b"exit 0\n"),
        File(f"{OWN}/post.sh", 0o700, b"exit 0\n"),
        File(f"{OWN}/plan.json", 0o600, empty_plan().encode()),
    ]
    manifest = {
        "binary": "/usr/local/bin/app",
        "files": {
            file.path: {"mode": f"{file.mode:o}", "sha256": hashlib.sha256(file.content).hexdigest()}
            for file in files
        },
    }
    files.append(File(f"{OWN}/manifest.json", 0o600, json.dumps(manifest).encode()))
    files.append(File("/usr/local/bin/app", 0o755, b"#!/bin/true\n"))
    install.write_set(str(image), files)


def check(image: Path) -> list[verify.Finding]:
    return verify.check(AZURE, str(image))


def one(image: Path) -> verify.Finding:
    found = check(image)
    assert len(found) == 1, "\n".join(map(str, found))
    assert found[0].framework == "" or found[0].framework in FRAMEWORK_ERRORS
    assert found[0].effect
    return found[0]
