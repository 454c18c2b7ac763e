"""``app detect``: the servers of this machine or of an image, and their policies."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import click

from app.cli.output import emit, json_option
from app.cli.written import comment, create, toml
from app.compiler import compile_paths
from app.detect import Found, Instance, detect
from app.errors import HostUnfit, Misused, PolicyInvalid, StillframeError
from app.host import trust
from app.policy import shipped_names
from app.policy.source import read_file
from app.policy.wording import printable


@click.command("detect")
@click.option("--out", "directory", default="", metavar="DIR", help="Write a policy for each server there.")
@click.option(
    "--root", default="", metavar="IMAGE", help="Look at what is installed below this folder instead."
)
@click.option("--installed", is_flag=True, help="Write policies also for servers that do not run.")
@json_option
def command(directory: str, root: str, installed: bool, as_json: bool) -> None:
    """Find the servers that run here, and write a policy for each.

    Looks only, asks nothing, and connects to nobody: processes, sockets, packages of dpkg, unit files
    and folders tell. Without --out nothing is written. No file is ever overwritten. What was guessed
    stands in the policy as a comment; what could not be decided is said. As root more is seen.
    """
    if root and not os.path.isdir(root):
        raise Misused(f"--root {printable(root)!r} is no folder", "mount the image first, and name its root")
    found = detect(os.path.abspath(root) if root else "")
    shipped = set(shipped_names())
    for instance in [i for i in found.instances if i.policy not in shipped]:
        found.instances.remove(instance)
        found.undecided.append(f"{instance.what}: no shipped policy serves it; see app init")
    for instance in list(found.instances):
        if problem := _problem([instance]):
            found.instances.remove(instance)
            found.undecided.append(f"{instance.what}: no policy can be made of it: {problem}")
    chosen = [i for i in found.instances if i.running or installed or root]
    files = {i.name: os.path.join(directory, f"{i.name}.toml") for i in chosen} if directory else {}
    if directory:
        _write(directory, chosen, files)
    emit(_data(found, root, files), _text(found, files, directory), as_json)


def _write(directory: str, chosen: list[Instance], files: dict[str, str]) -> None:
    """All of them or none. Raises HostUnfit where others could exchange what root writes there."""
    if problem := _problem(chosen):
        raise StillframeError(f"what was found makes no policies for one VM: {problem}", "app detect --json")
    os.makedirs(directory, mode=0o755, exist_ok=True)
    # As everywhere it is the folder that counts, not the links that lead to it.
    flaws = trust.findings(os.path.realpath(directory), folder=True) if os.geteuid() == 0 else []
    if flaws:
        raise HostUnfit(
            f"{flaws[0].path}: {flaws[0].message}; nothing was written",
            f"{flaws[0].repair}, or choose another folder (root compiles no policy of others' making)",
        )
    create([(files[i.name], policy_text(i)) for i in chosen])


def policy_text(instance: Instance) -> str:
    """A policy for one server, with what it is made from and what is unsure about it."""
    data: dict[str, Any] = {"version": 1, "name": instance.name, "extends": instance.policy}
    if instance.settings:
        data["settings"] = instance.settings
    if instance.environment:
        data["command"] = {"environment": instance.environment}
    state = "" if instance.running else ", not seen running"
    words = [f"{instance.what}{state}: found by app detect ({'; '.join(instance.evidence)})."]
    return comment(*words, *(f"Check: {sentence}." for sentence in instance.unsure)) + toml(data)


def _problem(instances: list[Instance]) -> str:
    """Why policies for these do not compile, "" if they do: a process says of itself what it likes."""
    texts = {f"{instance.name}.toml": policy_text(instance).encode() for instance in instances}
    try:
        compile_paths(list(texts), lambda path: texts[path] if path in texts else read_file(path))
    except PolicyInvalid as error:
        return "; ".join(f"{problem.key}: {problem.message}" for problem in error.problems)
    return ""


def _data(found: Found, root: str, files: dict[str, str]) -> dict[str, Any]:
    return {
        "root": root,
        "found": [{**dataclasses.asdict(i), "file": files.get(i.name)} for i in found.instances],
        "undecided": found.undecided,
        "not_seen": found.blind,
    }


def _text(found: Found, files: dict[str, str], directory: str) -> str:
    lines = []
    for instance in found.instances:
        state = "" if instance.running else " (installed, not running)"
        target = f" -> {files[instance.name]}" if instance.name in files else ""
        lines.append(f"{instance.what}{state}: policy {instance.policy}{target}")
        lines += [f"    {sentence}" for sentence in instance.evidence]
        lines += [f"    check: {sentence}" for sentence in instance.unsure]
    lines += [f"not decided: {sentence}" for sentence in found.undecided]
    lines += [f"not seen: {sentence}" for sentence in found.blind]
    if not found.instances:
        lines.append("no server that a shipped policy serves was found")
    elif files:
        lines.append(f"next: look through them, then app validate {directory.rstrip('/')}/*.toml")
    elif any(i.running for i in found.instances):
        lines.append("nothing was written: app detect --out DIR writes a policy for each that runs")
    else:
        lines.append("nothing was written: app detect --installed --out DIR writes a policy for each")
    return "\n".join(map(printable, lines))
