"""What is inside the one file, and what is not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.release.conftest import ROOT

pytestmark = pytest.mark.integration

OLDEST = (2, 17)
LARGEST = 11_000_000


def _versions(path: Path) -> list[tuple[int, ...]]:
    listed = subprocess.run(["objdump", "-T", path], capture_output=True, text=True, check=True).stdout
    return [tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([0-9.]+)", listed)]


def test_no_object_needs_a_newer_glibc(app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = app.read_bytes()
    # A whole ELF header: the four letters alone occur in code, too.
    places = [m.start() for m in re.finditer(rb"\x7fELF\x02\x01\x01[\x00\x03]\x00{8}", content)]
    highest = []
    for place in places:
        part = tmp_path / f"object-{place}"
        part.write_bytes(content[place:])
        highest.append((place, max(_versions(part), default=())))
    with capsys.disabled():
        for place, version in highest:
            print(f"\nobject at byte {place}: GLIBC_{'.'.join(map(str, version))}", end=" ")
    assert places == [0], "only the executable itself"
    assert highest[0][1] == OLDEST


def test_it_asks_for_nothing_but_libc(app: Path) -> None:
    listed = subprocess.run(["objdump", "-p", app], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED +(\S+)", listed))
    libc = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "libutil.so.1", "ld-linux-x86-64.so.2"}
    assert needed <= libc
    assert "RUNPATH" not in listed
    assert "RPATH" not in listed


def test_nothing_inside_has_to_be_unpacked(app: Path) -> None:
    readers = pytest.importorskip("PyInstaller.archive.readers")
    kinds = {entry[-1] for entry in readers.CArchiveReader(str(app)).toc.values()}
    assert kinds <= {"s", "z", "o"}, "scripts, the archive of modules, options"


def test_it_is_small(app: Path) -> None:
    assert app.stat().st_size <= LARGEST


def test_no_folder_of_the_build_is_inside(app: Path) -> None:
    content = app.read_bytes()
    for word in (os.fsencode(ROOT), b"/.build/", b"/home/", b"/root/"):
        assert word not in content, word


def test_checksums_name_every_file(release: Path) -> None:
    lines = (release / "SHA256SUMS").read_text().splitlines()
    said = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in release.iterdir()}
    del there["SHA256SUMS"]
    assert said == there


def test_the_sbom_names_what_is_inside(release: Path, app: Path) -> None:
    sbom = json.loads((release / "sbom.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    (digest,) = sbom["metadata"]["component"]["hashes"]
    assert digest["content"] == hashlib.sha256(app.read_bytes()).hexdigest()
    names = {part["name"].lower() for part in sbom["components"]}
    assert {"cpython", "zlib", "libffi", "sqlite", "pyinstaller bootloader", "click", "jsonschema"} <= names
    assert "rpds-py" not in names, "replaced by our own"
    licences = (release / "LICENCES.txt").read_text()
    for part in sbom["components"]:
        assert f"{part['name']} {part['version']}: {part['licenses'][0]['expression']}" in licences
