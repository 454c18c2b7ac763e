"""Policy files: finding, reading and parsing one, with the line of every key."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import Problem
from app.policy.depth import DEEPEST, deep_line, is_too_deep, long_key_line, long_number_line
from app.policy.findings import Findings
from app.policy.locate import Key, Node, locate
from app.policy.wording import dotted, printable

Read = Callable[[str], bytes]
"""Reads a policy file. Raises OSError; may raise StillframeError where the file is not to be trusted."""

LARGEST = 1 << 18
"""Bytes of a policy file: ten times the longest one that is shipped."""

BARE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed policy file. ``file`` is how it is shown; ``place`` where relative paths start."""

    file: str
    place: str
    data: dict[str, Any]
    root: Node


# The release unpacks nothing: its loader lists and reads what is inside the file.
_loader: Any = globals()["__loader__"]
_inside = getattr(_loader, "list_data", None)


def shipped_folder() -> Path:
    """Where the shipped policies are: beside the package (tree, release) or inside it (wheel)."""
    here = Path(__file__)
    beside, within = here.parents[2] / "policies", here.parents[1] / "policies"
    return within if not _inside and (within / "filesystem.toml").is_file() else beside


def shipped_names() -> list[str]:
    """The names of the shipped policies, sorted."""
    folder = shipped_folder()
    files = _inside(str(folder)) if _inside else [path.name for path in folder.glob("*.toml")]
    return sorted(name.removesuffix(".toml") for name in files)


def _read_shipped(path: str) -> bytes:
    return bytes(_loader.get_data(path)) if _inside else read_file(path)


def read_file(path: str) -> bytes:
    """The content of a regular file, at most one byte more than LARGEST. Raises OSError."""
    # O_NONBLOCK: a FIFO must give an error, not a wait for somebody to write.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "is a directory")
        if not stat.S_ISREG(mode):
            raise OSError("is not a regular file")
        return file.read(LARGEST + 1)


def open_document(
    path: str, read: Read, findings: Findings, extended_by: Document | None = None
) -> Document | None:
    """Read and parse an operator's file; None (and a finding) where that is not possible.

    ``extended_by``: the policy whose ``extends`` names it, which is to be mended where it is not there.
    """
    return _parse(path, printable(path), os.path.dirname(path), read, findings, extended_by)


def open_shipped(name: str, findings: Findings) -> Document | None:
    """Read and parse a shipped policy. It is part of this program: nobody's ``read`` judges it."""
    folder = shipped_folder()
    return _parse(str(folder / f"{name}.toml"), f"policies/{name}.toml", str(folder), _read_shipped, findings)


def _parse(
    path: str, file: str, place: str, read: Read, findings: Findings, extended_by: Document | None = None
) -> Document | None:
    def refuse(message: str, hint: str = "", line: int | None = None) -> None:
        findings.put(Problem(file, line, "", message, hint))

    try:
        content = read(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        missing = isinstance(error, FileNotFoundError)
        near = f"a shipped policy is named without .toml: {', '.join(shipped_names())}"
        if extended_by is None:
            refuse(f"cannot be read: {reason}", near if missing else "")
        else:
            folder = f"a relative path begins at {printable(os.path.abspath(extended_by.place))}; {near}"
            findings.add(
                extended_by.root,
                ("extends",),
                f"{file} cannot be read: {reason}",
                folder if missing else "",
            )
        return None
    if len(content) > LARGEST:
        refuse(f"is larger than {LARGEST} bytes", "a policy is a few dozen lines: is this the right file?")
        return None
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(
            f"is not UTF-8 (byte {error.start + 1})",
            "save it as UTF-8; TOML knows no other encoding",
            content.count(b"\n", 0, error.start) + 1,
        )
        return None
    nested = f"at most {DEEPEST} tables and arrays within each other"
    if (line := long_key_line(text)) is not None:
        refuse("is nested too deeply", f"{nested}, and as many parts in a key", line)
        return None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place_in_text = re.search(r"at line (\d+), column (\d+)", str(error))
        line = int(place_in_text.group(1)) if place_in_text else text.count("\n") + 1
        refuse(f"is not TOML: {printable(str(error))}", "", line)
        return None
    except RecursionError:
        refuse("is nested too deeply", nested, deep_line(locate(text, file)))
        return None
    except ValueError:
        refuse("holds a number that is too long", "TOML's integers have 64 bits", long_number_line(text))
        return None
    root = locate(text, file)
    if is_too_deep(data):
        refuse("is nested too deeply", nested, deep_line(root))
        return None
    before = len(findings)
    _check_scalars(data, root, (), findings)
    return Document(file, place, data, root) if len(findings) == before else None


def _check_scalars(value: Any, root: Node, path: tuple[Key, ...], findings: Findings) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_scalars(item, root, (*path, key), findings)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_scalars(item, root, (*path, index), findings)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        findings.add(root, path, "is too large a number", "TOML's integers have 64 bits")
    elif isinstance(value, str) and "\0" in value:
        findings.add(
            root, path, "holds a NUL character", f"no program can be given one; look at {dotted(path)}"
        )
