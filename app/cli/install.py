"""``app install``: this very binary, and what belongs to it, on this VM or in an image."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Sequence

import click

from app import __version__, deployment
from app.cli.output import emit, json_option
from app.errors import HostUnfit, Misused
from app.files import File
from app.paths import BINARY
from app.policy.wording import printable

_PLACE = re.compile(r"(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+")
"""What systemd, the shells and a man page all take as it is."""


@click.command("install")
@click.option(
    "--root", default="", metavar="IMAGE", help="Install below this folder; PATH is as the VM sees it."
)
@click.option(
    "--to",
    "binary",
    default=BINARY,
    show_default=True,
    metavar="PATH",
    help="Where the VM keeps the executable.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing; say what would be written.")
@json_option
def command(root: str, binary: str, dry_run: bool, as_json: bool) -> None:
    """Put this executable at PATH, with its man pages, completions and systemd files.

    All of it is written or nothing. The unit stillframe-recover.service runs app recover at every
    boot that follows a hold which was lost. What was installed is remembered, so that a newer
    release replaces it and app uninstall removes it. A file that is not ours is never replaced.
    """
    image = image_root(root)
    if not _PLACE.fullmatch(binary):
        raise Misused(
            f"--to {printable(binary)!r} is not a full, normal path of letters, digits and . _ + -",
            f"such as {BINARY}",
        )
    files = [File(binary, 0o755, _running()), *_companions(image, binary)]
    change = deployment.plan_install(image, binary, __version__, files)
    done = [*change.write, *change.remove] if dry_run else deployment.install(image, change)
    data = {
        "root": image,
        "dry_run": dry_run,
        "binary": binary,
        "release": __version__,
        "files": [
            {"path": f.path, "mode": f"{f.mode:04o}", "sha256": hashlib.sha256(f.content).hexdigest()}
            for f in change.files
        ],
        "changed": [path for path in done if path not in change.remove],
        "removed": [path for path in done if path in change.remove],
        "altered": list(change.altered),
        "kept": list(change.keep),
    }
    emit(data, _text(image, binary, change, done, dry_run), as_json)


def image_root(root: str) -> str:
    """The folder below which to write, "" for this machine. Raises Misused if it is no folder."""
    if root and not os.path.isdir(root):
        raise Misused(f"--root {printable(root)!r} is no folder", "mount the image first, and name its root")
    return os.path.abspath(root).rstrip("/") if root else ""


def _running() -> bytes:
    """The bytes of the binary that is running. Raises HostUnfit in a source tree."""
    if not getattr(sys, "frozen", False):
        raise HostUnfit(
            "only the built binary can install itself, and this is the source tree",
            "make binary, then dist/app install",
        )
    with open(sys.executable, "rb") as file:
        return file.read()


def _companions(image: str, binary: str) -> list[File]:
    from app.cli.commands import COMMANDS, group
    from app.cli.completion import completions
    from app.cli.manual import pages

    scripts = completions(group, os.path.basename(binary))
    return deployment.companions(
        binary, pages(group, COMMANDS, binary), scripts, debian=deployment.is_debian(image)
    )


def _text(image: str, binary: str, change: deployment.Change, done: Sequence[str], dry_run: bool) -> str:
    wrote, removed = ("would write", "would remove") if dry_run else ("wrote", "removed")
    lines = [f"{removed if path in change.remove else wrote} {image}{path}" for path in done]
    lines += [f"note: {image}{path} had been changed by somebody else" for path in change.altered]
    lines += [f"kept {image}{path}: changed by somebody else, and no longer ours" for path in change.keep]
    if not lines:
        lines.append(f"{image}{binary}: nothing to change")
    if dry_run:
        return "\n".join(lines)
    lines.append(f"installed stillframe {__version__} at {image}{binary}")
    if os.geteuid() != 0:
        lines.append("note: the files are owned by you; on the VM root must own them (install there as root)")
    elif done and not image and os.path.isdir("/run/systemd/system"):
        lines.append("next: systemctl daemon-reload")
    return "\n".join(lines)
