"""``app compile``: policies in, the framework's files out; all of them or none."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click

from app.cli.output import emit, json_option
from app.cli.policies import read_trusted, read_with_warning
from app.cli.validate import compile_or_report, policies_argument
from app.compiler import Compiled, compile_files
from app.compiler.configuration import freeze_config_path, manifest_path
from app.errors import Exit, HostUnfit, Misused
from app.files import File
from app.host import trust
from app.install import differences, write_set
from app.paths import BINARY, CONFIG_DIRECTORY
from app.policy.settings import normal_path
from app.policy.wording import printable
from app.verify import Manifest

_FREEZE_CURE = (
    "move its keys into the policy (freeze.skip, freeze.timeout, freeze.wait and "
    "framework.sequential_snapshot stand for MountsToSkip, timeout, SafeFreezeWaitInSeconds and "
    "seqsnapshot), then move the file away"
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to write: ``directory`` as the running VM sees it, below ``root`` ("": this machine)."""

    directory: str
    root: str

    def is_this_machine(self) -> bool:
        """Whether what is written is what this machine's root will run."""
        return not self.root or os.path.samefile(self.root, "/")

    def content(self, path: str) -> bytes | None:
        """The bytes of a file there, or None if there is none. Raises HostUnfit where it is no plain file."""
        descriptor, flaws = trust.examine(path, root=self.root)
        if descriptor < 0:
            if all(flaw.kind == trust.MISSING for flaw in flaws):
                return None
            raise flaws[0].error()
        try:
            return trust.read_open(descriptor, self.root + path)
        finally:
            os.close(descriptor)


@click.command("compile")
@policies_argument
@click.option(
    "--out",
    "directory",
    default=CONFIG_DIRECTORY,
    show_default=True,
    metavar="DIR",
    help="Folder to write to.",
)
@click.option(
    "--root", default="", metavar="IMAGE", help="Write below this folder; DIR is as the VM sees it."
)
@click.option(
    "--binary", default=BINARY, show_default=True, metavar="PATH", help="Where the VM keeps this executable."
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 with a diff where the disk differs.")
@click.option("--dry-run", is_flag=True, help="Write nothing; say what would be written.")
@json_option
def command(
    policies: tuple[str, ...],
    directory: str,
    root: str,
    binary: str,
    check: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Turn policies into the framework's files.

    A POLICY is a TOML file, or the bare name of a shipped policy (./NAME is a file). The framework
    allows one configuration a VM: give all policies of the VM at once.
    """
    target = _target(directory, root)
    # Into an image it may be whoever builds it that wrote them: a pipeline's checkout, say.
    read = read_trusted if target.is_this_machine() else read_with_warning
    compiled = compile_or_report(policies, as_json, read, target.directory)
    if not _plain(binary):
        raise Misused(
            f"--binary {printable(binary)!r} is not a full, normal path", "such as /usr/local/bin/app"
        )
    files = compile_files(compiled.plan, compiled.extension, directory=target.directory, binary=binary)
    stale = _stale(target, files)
    if check:
        lines = differences(target.root, files) + [f"{target.root}{path}: no longer needed" for path in stale]
        emit({**_describe(compiled, target, files), "differences": lines}, "\n".join(lines), as_json)
        if lines:
            raise click.exceptions.Exit(Exit.DIFFERS)
        return
    if dry_run:
        data = {**_describe(compiled, target, files), "changed": [], "removed": stale}
        listing = [f"would write {target.root}{file.path} (mode {file.mode:o})" for file in files]
        listing += [f"would remove {target.root}{path}" for path in stale]
        emit(data, "\n".join(listing), as_json)
        return
    changed = write_set(target.root, files, remove=stale)
    written = [path for path in changed if path not in stale]
    removed = [path for path in changed if path in stale]
    data = {**_describe(compiled, target, files), "changed": written, "removed": removed}
    emit(data, _text(compiled, target, written, removed), as_json)


def _target(directory: str, root: str) -> Target:
    # Without resolving links: where one is on the way, writing refuses and says so.
    place = os.path.normpath(directory if root else os.path.abspath(directory))
    if not _plain(place):
        raise Misused(
            f"--out {printable(directory)!r} is not a full path",
            "with --root, DIR is as the running VM sees it, such as /etc/azure",
        )
    if root and not os.path.isdir(root):
        raise Misused(f"--root {printable(root)!r} is no folder", "mount the image first, and name its root")
    return Target(place, os.path.abspath(root).rstrip("/") if root else "")


def _plain(path: str) -> bool:
    return normal_path(path) and not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in path)


def _stale(target: Target, files: Sequence[File]) -> list[str]:
    """Files of the set that stands there which the new one has no more.

    Raises HostUnfit where a file is in the way that is not known to be ours, or a ``vmbackup.conf``
    was changed since: it is the operator's then, and the extension obeys it.
    """
    listed = _listed(target)
    _check_foreign(target, files, listed)
    new = {file.path for file in files}
    freeze = freeze_config_path(target.directory)
    stale = []
    for path, digest in sorted(listed.items()):
        if path in new or not _plain(path):
            continue
        content = target.content(path)
        # Whatever the manifest says: only what still is what we wrote.
        if content is not None and hashlib.sha256(content).hexdigest() == digest:
            stale.append(path)
        elif content is not None and path == freeze:
            raise HostUnfit(
                f"{target.root}{path}: was changed since we wrote it; nothing was changed", _FREEZE_CURE
            )
    return stale


def _listed(target: Target) -> dict[str, str]:
    """The sha256 of each file that the manifest which stands there vouches for."""
    path = manifest_path(target.directory)
    found = target.content(path)
    if found is None:
        return {}
    try:
        manifest = Manifest.parse(found.decode("utf-8", "replace"), path)
    except HostUnfit:
        return {}  # a damaged manifest vouches for nothing, and is about to be replaced
    return {entry.path: entry.sha256 for entry in manifest.files}


def _check_foreign(target: Target, files: Sequence[File], listed: Mapping[str, str]) -> None:
    """Raise HostUnfit, naming all, where files stand in the way that nothing says are ours."""
    freeze = freeze_config_path(target.directory)
    foreign: list[str] = []
    for file in files:
        if file.path in listed or file.path == manifest_path(target.directory):
            continue
        found = target.content(file.path)
        if found is not None and found != file.content:
            foreign.append(file.path)
    if foreign:
        cures = [_FREEZE_CURE] if freeze in foreign else []
        if set(foreign) - {freeze}:
            cures.append(
                "move what is there away, or choose another place: --out, framework.pre_location, "
                "framework.post_location"
            )
        raise HostUnfit(
            f"{', '.join(target.root + path for path in foreign)}: not one of ours; nothing was changed",
            "; ".join(cures),
        )


def _describe(compiled: Compiled, target: Target, files: Sequence[File]) -> dict[str, object]:
    return {
        "directory": target.directory,
        "root": target.root,
        "applications": [application.name for application in compiled.plan.applications],
        "requested": compiled.plan.requested.word,
        "plan_sha256": compiled.plan.digest(),
        "timeout_seconds": compiled.budget.timeout_seconds,
        "files": [
            {
                "path": file.path,
                "mode": f"{file.mode:04o}",
                "sha256": hashlib.sha256(file.content).hexdigest(),
            }
            for file in files
        ],
    }


def _text(compiled: Compiled, target: Target, written: Sequence[str], removed: Sequence[str]) -> str:
    names = ", ".join(application.name for application in compiled.plan.applications)
    lines = [f"wrote {target.root}{path}" for path in written]
    lines += [f"removed {target.root}{path}" for path in removed]
    if not lines:
        lines.append(f"{target.root}{target.directory}: nothing to change")
    lines.append(
        f"compiled {names}: level {compiled.plan.requested.word}, "
        f"timeoutInSeconds {compiled.budget.timeout_seconds}"
    )
    if os.geteuid() != 0:
        lines.append("note: the files are owned by you; on the VM root must own them (compile there as root)")
    elif not target.root:
        lines.append("next: app verify")
    return "\n".join(lines)
