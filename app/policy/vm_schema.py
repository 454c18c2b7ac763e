"""The schema of what holds for the whole VM: freeze, framework, hazards."""

from __future__ import annotations

from app.host import hazards
from app.policy.vocabulary import (
    CONTROL,
    FULL_PATH,
    LARGEST_TIMEOUT,
    LISTED_PATH,
    Schema,
    integer,
    string,
    strings,
    table,
)


def freeze() -> Schema:
    """``[freeze]``."""
    return table(
        "filesystems",
        enabled={"type": "boolean", "description": "fsFreezeEnabled"},
        mounts={
            "type": ["string", "array"],
            "pattern": "^auto$",
            "items": {"type": "string", "pattern": FULL_PATH},
            "minItems": 1,
            "uniqueItems": True,
            "description": '"auto", or the mount points to freeze',
        },
        skip={
            **strings("mount points that are not frozen (MountsToSkip)", pattern=LISTED_PATH),
            "uniqueItems": True,
        },
        timeout=integer("longest freeze, seconds (timeout in vmbackup.conf)", 1, LARGEST_TIMEOUT),
        wait=integer("SafeFreezeWaitInSeconds in vmbackup.conf", 1, LARGEST_TIMEOUT),
    )


def framework() -> Schema:
    """``[framework]``."""
    location = {"pattern": rf"^/[^{CONTROL}]*[^/{CONTROL}]$"}
    return table(
        "the Azure Backup script framework",
        plugin_name={"type": "string", "const": "ScriptRunner", "description": "pluginName"},
        timeout_seconds=integer("timeoutInSeconds, for each script; absent: computed", 1, LARGEST_TIMEOUT),
        poll_seconds=integer("ScriptsExecutionPollTimeSeconds", 1, 5),
        pre_location=string("preScriptLocation: where the pre-script is written", **location),
        post_location=string("postScriptLocation: where the post-script is written", **location),
        pre_params=strings("preScriptParams", pattern=rf"^[^{CONTROL}]*$"),
        post_params=strings("postScriptParams", pattern=rf"^[^{CONTROL}]*$"),
        pre_retries=integer("preScriptNoOfRetries (the extension makes none)", 0, 100),
        post_retries=integer("postScriptNoOfRetries (the extension makes none)", 0, 100),
        app_name=string("appName, telemetry only", pattern=rf"^[^{CONTROL}]{{1,128}}$"),
        sequential_snapshot={"type": "boolean", "description": "seqsnapshot in vmbackup.conf"},
        on_app_failure_do_fs_freeze={
            "type": "boolean",
            "description": "OnAppFailureDoFsFreeze in vmbackup.conf",
        },
        on_app_success_do_fs_freeze={
            "type": "boolean",
            "description": "OnAppSuccessDoFsFreeze in vmbackup.conf",
        },
    )


def hazards_table() -> Schema:
    """``[hazards]``."""
    severities = list(reversed(hazards.SEVERITIES))
    return table(
        "what a hazard that is found before a hold means; fatal: no hold",
        tables={
            name: {
                "enum": severities,
                "description": f"{hazards.KINDS[name].severity} if absent: {hazards.KINDS[name].stake}",
            }
            for name in hazards.changeable()
        },
    )
