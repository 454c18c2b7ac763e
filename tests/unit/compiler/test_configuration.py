from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from app.compiler import Compiled, compile_files
from app.compiler.configuration import freeze_config
from app.files import File
from app.plan import Plan
from tests.unit.policy.write import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def files(compiled: Compiled, **more: str) -> dict[str, File]:
    return {file.path: file for file in compile_files(compiled.plan, compiled.extension, **more)}


def test_the_files_of_the_design(folder: Folder) -> None:
    folder.custom("a")
    compiled = folder.compile()
    found = files(compiled)
    assert {path: oct(file.mode) for path, file in found.items()} == {
        "/etc/azure/VMSnapshotScriptPluginConfig.json": "0o600",
        "/etc/azure/stillframe/plan.json": "0o600",
        "/etc/azure/stillframe/pre.sh": "0o700",
        "/etc/azure/stillframe/post.sh": "0o700",
        "/etc/azure/stillframe/manifest.json": "0o600",
    }
    assert list(found)[-1] == "/etc/azure/stillframe/manifest.json"
    assert Plan.from_json(found["/etc/azure/stillframe/plan.json"].content.decode()).to_json() == (
        compiled.plan.to_json()
    )


def test_every_key_of_the_framework_has_its_default(folder: Folder) -> None:
    folder.custom("a")
    content = files(folder.compile())["/etc/azure/VMSnapshotScriptPluginConfig.json"].content
    assert json.loads(content) == {
        "pluginName": "ScriptRunner",
        "preScriptLocation": "/etc/azure/stillframe/pre.sh",
        "postScriptLocation": "/etc/azure/stillframe/post.sh",
        "preScriptParams": [],
        "postScriptParams": [],
        "preScriptNoOfRetries": 0,
        "postScriptNoOfRetries": 0,
        "timeoutInSeconds": 130,
        "continueBackupOnFailure": True,
        "fsFreezeEnabled": True,
        "ScriptsExecutionPollTimeSeconds": 1,
    }


def test_every_key_of_the_framework_can_be_set(folder: Folder) -> None:
    folder.custom(
        "a",
        """
        [freeze]
        enabled = false
        [failure]
        backup = "fail"
        [framework]
        plugin_name = "ScriptRunner"
        app_name = "Ördérs"
        timeout_seconds = 1800
        poll_seconds = 5
        pre_location = "/opt/azure/pre"
        post_location = "/opt/azure/post"
        pre_params = ["a b", "$(c)", "'"]
        post_params = ["é"]
        pre_retries = 3
        post_retries = 4
        """,
    )
    found = files(folder.compile())
    assert found["/opt/azure/pre"].mode == found["/opt/azure/post"].mode == 0o700
    assert json.loads(found["/etc/azure/VMSnapshotScriptPluginConfig.json"].content) == {
        "pluginName": "ScriptRunner",
        "appName": "Ördérs",
        "preScriptLocation": "/opt/azure/pre",
        "postScriptLocation": "/opt/azure/post",
        "preScriptParams": ["a b", "$(c)", "'"],
        "postScriptParams": ["é"],
        "preScriptNoOfRetries": 3,
        "postScriptNoOfRetries": 4,
        "timeoutInSeconds": 1800,
        "continueBackupOnFailure": False,
        "fsFreezeEnabled": False,
        "ScriptsExecutionPollTimeSeconds": 5,
    }


def test_the_manifest_vouches_for_every_other_file(folder: Folder) -> None:
    folder.custom("a", "[freeze]\nskip = ['/mnt/x']")
    found = files(folder.compile(), directory="/elsewhere", binary="/opt/app")
    content = found.pop("/elsewhere/stillframe/manifest.json").content
    assert json.loads(content) == {
        "version": 1,
        "binary": "/opt/app",
        "files": {
            path: {"mode": f"0{file.mode:o}", "sha256": hashlib.sha256(file.content).hexdigest()}
            for path, file in found.items()
        },
    }


def test_scripts_hold_paths_and_nothing_of_a_policy(folder: Folder) -> None:
    folder.custom("marker", 'summary = "marker"\n[framework]\npre_params = ["marker"]\ntimeout_seconds = 777')
    found = files(folder.compile(), binary="/opt/a b/app")
    for name in ("pre", "post"):
        script = found[f"/etc/azure/stillframe/{name}.sh"].content
        assert b"marker" not in script
        assert b"'/opt/a b/app'" in script
        assert b"777" in script


FREEZE = [
    ("[freeze]\nskip = ['/b', '/a x']", "MountsToSkip = /a x,/b\n"),
    ("[freeze]\ntimeout = 50", "timeout = 50\nSafeFreezeWaitInSeconds = 56\n"),
    ("[freeze]\ntimeout = 60", "timeout = 60\n"),
    ("[freeze]\nwait = 90", "SafeFreezeWaitInSeconds = 90\n"),
    ("[framework]\nsequential_snapshot = true", "seqsnapshot = 2\n"),
    ("[framework]\nsequential_snapshot = false", "seqsnapshot = 0\n"),
    ("[framework]\non_app_failure_do_fs_freeze = false", "OnAppFailureDoFsFreeze = False\n"),
    ("[framework]\non_app_success_do_fs_freeze = true", "OnAppSuccessDoFsFreeze = True\n"),
]


@pytest.mark.parametrize(("more", "lines"), FREEZE)
def test_vmbackup_conf_says_only_what_a_policy_says(folder: Folder, more: str, lines: str) -> None:
    folder.custom("a", more)
    compiled = folder.compile()
    assert freeze_config(compiled.extension) == f"[SnapshotThread]\n{lines}"
    assert files(compiled)["/etc/azure/vmbackup.conf"].mode == 0o600
