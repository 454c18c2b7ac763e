"""The manifest, and the disk held against it.

``stillframe/manifest.json``: ``binary`` (where the VM keeps the executable) and ``files``, a map
from each path to its ``mode`` (octal text) and ``sha256``. It vouches for every compiled file but
itself, which the trust in its path does.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass

from app.errors import HostUnfit
from app.host import trust
from app.verify.config import AGAIN, Config
from app.verify.finding import PRE_FAILS, Findings, Outcome

FOLDER = "stillframe"
MANIFEST = "manifest.json"
PLAN = "plan.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one file must be: exact mode, and the sha256 of its bytes in hexadecimal."""

    path: str
    mode: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was compiled: the executable's path and every file."""

    binary: str
    files: tuple[Entry, ...]

    @staticmethod
    def parse(text: str, origin: str) -> Manifest:
        """Read a manifest. Raises HostUnfit if it is none."""
        try:
            raw = json.loads(text)
            files = raw["files"].items()
            entries = tuple(Entry(path, int(item["mode"], 8), str(item["sha256"])) for path, item in files)
            manifest = Manifest(str(raw["binary"]), entries)
            "\n".join([manifest.binary, *(entry.path for entry in entries)]).encode()
            return manifest
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HostUnfit(
                f"{origin}: not a manifest that this release can read ({error!r})", AGAIN
            ) from error

    def entry(self, path: str) -> Entry | None:
        """The entry for ``path``, as the VM sees it."""
        return next((entry for entry in self.files if entry.path == path), None)


def place(directory: str, name: str) -> str:
    """The path of a file in our own folder below ``directory``."""
    return f"{directory}/{FOLDER}/{name}"


def read_manifest(directory: str, root: str = "") -> Manifest:
    """The manifest, from a trusted path with exact mode 600. Raises HostUnfit."""
    path = place(directory, MANIFEST)
    content = trust.read_trusted(path, 0o600, root=root)
    return Manifest.parse(content.decode("utf-8", "replace"), root + path)


def load_plan_text(directory: str, root: str = "") -> str:
    """The text of plan.json: trusted, exact mode 600, and of the digest that the manifest names.

    What was hashed is what is returned. Raises HostUnfit.
    """
    return check_plan(place(directory, PLAN), read_manifest(directory, root), root)


def check_plan(path: str, manifest: Manifest, root: str = "") -> str:
    """As load_plan_text, for the plan at ``path``."""
    content = trust.read_trusted(path, 0o600, root=root)
    entry = manifest.entry(path)
    if entry is None or entry.sha256 != hashlib.sha256(content).hexdigest():
        raise HostUnfit(f"{root}{path}: not the plan that the manifest names", AGAIN)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HostUnfit(f"{root}{path}: is not UTF-8", AGAIN) from error


def check_manifest(directory: str, config: Config, found: Findings) -> None:
    """Check our own folder, the manifest, each file in it, the plan, and the executable."""
    refused = f"'app pre' refuses: {config.on_failure}"
    outcome = Outcome(PRE_FAILS, refused, PRE_FAILS, refused, refused)
    folder = f"{directory}/{FOLDER}"
    flaws = trust.findings(folder, mode=0o700, folder=True, root=found.root)
    if not any(flaw.kind == trust.MISSING for flaw in flaws):
        found.flaws(folder, flaws, outcome, 0o700)
    path = place(directory, MANIFEST)
    content = _content(path, 0o600, outcome, found)
    if content is None:
        return
    try:
        manifest = Manifest.parse(content.decode("utf-8", "replace"), path)
    except HostUnfit as error:
        found.error(path, error.message.removeprefix(f"{path}: "), refused, AGAIN, PRE_FAILS)
        return
    for entry in manifest.files:
        _check_entry(entry, directory, outcome, found)
    if manifest.entry(place(directory, PLAN)) is None:
        found.error(path, f"names no {PLAN}", refused, AGAIN, PRE_FAILS)
    _check_binary(manifest.binary, config, found)


def _content(path: str, mode: int, outcome: Outcome, found: Findings) -> bytes | None:
    descriptor, flaws = trust.examine(path, mode=mode, single=True, root=found.root)
    try:
        found.flaws(path, flaws, outcome, mode)
        return trust.read_open(descriptor, path) if descriptor >= 0 else None
    except HostUnfit as error:
        found.error(path, error.message, outcome.effect_refused, error.hint, PRE_FAILS)
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _check_entry(entry: Entry, directory: str, outcome: Outcome, found: Findings) -> None:
    content = _content(entry.path, entry.mode, outcome, found)
    if content is None:
        return
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        what = "changed since it was compiled (sha256 differs from the manifest)"
        found.error(entry.path, what, outcome.effect_refused, "app compile again", PRE_FAILS)
    elif entry.path == place(directory, PLAN):
        from app.plan import Plan

        try:
            Plan.from_json(content.decode("utf-8", "replace"), entry.path)
        except HostUnfit as error:
            what = error.message.removeprefix(f"{entry.path}: ")
            found.error(entry.path, what, outcome.effect_refused, error.hint, PRE_FAILS)


def _check_binary(path: str, config: Config, found: Findings) -> None:
    stops = f"pre.sh finds nothing to run: {config.on_failure}"
    outcome = Outcome(PRE_FAILS, stops, PRE_FAILS, stops, f"'app pre' refuses: {config.on_failure}")
    flaws = trust.findings(path, program=True, root=found.root)
    for flaw in flaws:
        if flaw.kind == trust.MISSING:
            put = f"install -o root -g root -m 755 app {found.root}{path}"
            flaw = trust.Flaw(flaw.path, flaw.kind, flaw.message, put, flaw.own)
        found.flaws(path, [flaw], outcome, None)
