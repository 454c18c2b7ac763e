"""What is inside a release: its SBOM (CycloneDX 1.6, JSON) and the licences of all of it.

python build/inventory.py BINARY WORK OUT    run by build/release.sh, on the interpreter it builds
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from PyInstaller.archive.readers import CArchiveReader  # type: ignore[import-untyped] # it has no types

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app import __version__  # noqa: E402 # the tree that this file stands in

LINKED = {
    # name in sources.lock: (its name in the world, SPDX licence, licence file in its source)
    "python": ("CPython", "PSF-2.0", "LICENSE"),
    "zlib": ("zlib", "Zlib", "LICENSE"),
    "libffi": ("libffi", "MIT", "LICENSE"),
    "sqlite": ("SQLite", "blessing", "LICENSE.md"),
}

STAND_INS = {"rpds": ""}
"""Modules of build/portable/shims that hold nothing of the distribution they stand in for."""


@dataclass(frozen=True)
class Part:
    """One thing inside. ``licence`` is an SPDX expression."""

    name: str
    version: str
    licence: str
    text: str
    sha256: str = ""
    purl: str = ""
    note: str = ""


def modules(binary: Path) -> list[str]:
    """The names of all modules in the binary's archive."""
    archive = CArchiveReader(str(binary))
    (name,) = (entry for entry in archive.toc if entry.endswith(".pyz"))
    return sorted(archive.open_embedded_archive(name).toc)


def linked(work: Path) -> Iterator[Part]:
    """What is linked into the executable."""
    for line in (ROOT / "build/portable/sources.lock").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        key, sha256, place = line.split()
        name, licence, file = LINKED[key]
        found = re.search(r"_(?:.*really)?([0-9][0-9.]*[0-9])\.orig\.tar", place)
        assert found, place
        text = (work / "build" / key / file).read_text(encoding="utf-8")
        if key == "python":
            # Of code by others inside it: libmpdec, HACL*, mimalloc and more.
            text += "\n\n" + (work / "build/python/Doc/license.rst").read_text(encoding="utf-8")
        source, _, upstream = Path(place).name.partition("_")
        upstream = upstream.partition(".orig.")[0].replace("+", "%2B")
        purl = f"pkg:deb/debian/{source}@{upstream}?arch=source"
        yield Part(name, found[1], licence, text, sha256, purl, "linked in")
    zig = metadata.distribution("ziglang")
    text = Path(str(zig.locate_file("ziglang/LICENSE"))).read_text(encoding="utf-8")
    yield Part("compiler-rt", zig.version, "MIT", text, note="the compiler's own runtime, linked in")


def distributions(names: list[str]) -> Iterator[Part]:
    """The Python distributions that modules come from; the standard library is CPython's."""
    tops = {name.partition(".")[0] for name in names}
    for found in sorted(metadata.distributions(), key=lambda one: one.metadata["Name"].lower()):
        name = found.metadata["Name"].lower()
        files = _files(found)
        inside = {file.partition("/")[0].removesuffix(".py") for file in files} & tops
        if name != "pyinstaller" and not any(STAND_INS.get(top, name) for top in inside):
            continue
        texts = [
            Path(str(found.locate_file(file))).read_text(encoding="utf-8")
            for file in files
            if re.search(r"dist-info/.*(LICEN[CS]E|COPYING)", file)
        ]
        assert texts, f"{name} has no licence file"
        boot = name == "pyinstaller"
        licence = "GPL-2.0-or-later WITH Bootloader-exception" if boot else _licence(found.metadata)
        yield Part(
            "PyInstaller bootloader" if boot else found.metadata["Name"],
            found.version,
            licence,
            "\n".join(texts),
            purl=f"pkg:pypi/{found.metadata['Name'].lower()}@{found.version}",
            note="linked in" if boot else "",
        )


def _files(found: metadata.Distribution) -> list[str]:
    # Not its attribute files: that needs csv, which the interpreter does without.
    return sorted(
        line.rpartition(",")[0].rpartition(",")[0] for line in (found.read_text("RECORD") or "").splitlines()
    )


def _licence(about: Any) -> str:
    spoken = about.get("License-Expression") or about.get("License") or ""
    classified = next((c for c in about.get_all("Classifier", ()) if c.startswith("License ::")), "")
    known = {
        "MIT License": "MIT",
        "License :: OSI Approved :: MIT License": "MIT",
        "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    }
    licence = known.get(spoken) or (spoken if len(spoken) < 40 else "") or known.get(classified, "")
    assert licence, f"{about['Name']}: which licence?"
    return str(licence)


def sbom(binary: Path, parts: list[Part]) -> dict[str, Any]:
    """The CycloneDX document. The same binary gives the same document."""
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    when = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    main = {
        "type": "application",
        "bom-ref": "stillframe",
        "name": "stillframe",
        "version": __version__,
        "licenses": [{"expression": "Apache-2.0"}],
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    components = []
    for part in parts:
        one: dict[str, Any] = {
            "type": "library",
            "bom-ref": part.purl or part.name,
            "name": part.name,
            "version": part.version,
            "licenses": [{"expression": part.licence}],
        }
        if part.purl:
            one["purl"] = part.purl
        if part.sha256:
            one["hashes"] = [{"alg": "SHA-256", "content": part.sha256}]
        if part.note:
            one["description"] = part.note
        components.append(one)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {"timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": main},
        "components": components,
        "dependencies": [
            {"ref": "stillframe", "dependsOn": [one["bom-ref"] for one in components]},
            *({"ref": one["bom-ref"]} for one in components),
        ],
    }


def licences(parts: list[Part]) -> str:
    """All licence texts, one after the other."""
    ours = (ROOT / "LICENSE").read_text(encoding="utf-8")
    texts = [f"stillframe {__version__}: Apache-2.0\n\n{ours}"]
    texts += [f"{part.name} {part.version}: {part.licence}\n\n{part.text}" for part in parts]
    return f"\n{'=' * 78}\n\n".join(text.rstrip() + "\n" for text in texts)


def main(binary: Path, work: Path, out: Path) -> int:
    """Write both files into ``out``; the exit status."""
    parts = [*linked(work), *distributions(modules(binary))]
    text = json.dumps(sbom(binary, parts), indent=2, ensure_ascii=False)
    (out / "sbom.cdx.json").write_text(text + "\n", encoding="utf-8")
    (out / "LICENCES.txt").write_text(licences(parts), encoding="utf-8")
    print(f"inventory: {', '.join(f'{part.name} {part.version}' for part in parts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
