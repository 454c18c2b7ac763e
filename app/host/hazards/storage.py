"""Hazards in how filesystems lie upon each other and who else uses them.

Sources: Documentation/ABI/testing/sysfs-block (loop/backing_file, holders); exports(5) and nfsd(7)
(/proc/fs/nfsd/exports, threads); Documentation/filesystems/overlayfs.rst; fs/ioctl.c ioctl_fsfreeze()
(EOPNOTSUPP without freeze_fs or freeze_super); fs/super.c freeze_super() (a read-only one: nothing to do).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from app.host.hazards.hazard import Hazard
from app.host.hazards.scene import Scene
from app.host.mounts import FREEZABLE, Mount, chosen_automatically, left_out, reachable, unescape

_ALSO_FREEZABLE = frozenset({"bcachefs", "reiserfs"})
"""Types that are never chosen automatically and have a freeze_fs nevertheless."""

_SOCKETS = {
    "docker": "/run/docker.sock",
    "containerd": "/run/containerd/containerd.sock",
    "podman": "/run/podman/podman.sock",
    "cri-o": "/run/crio/crio.sock",
}

_EXPORTED = ("/proc/fs/nfsd/exports", "/var/lib/nfs/etab")
"""What the kernel's server exports now; its own table holds only what was asked for already."""


def look(scene: Scene) -> Iterator[Hazard]:
    """Every hazard of this kind; none where nothing is to be frozen."""
    if scene.freezing:
        yield from _kinds(scene)
        yield from _loops(scene)
        yield from _nested(scene)
        yield from _skipped_in_part(scene)
        yield from _hidden(scene)
        yield from _containers(scene)
        yield from _exports(scene)


def _kinds(scene: Scene) -> Iterator[Hazard]:
    for mount in scene.freezing:
        if mount.kind not in FREEZABLE | _ALSO_FREEZABLE:
            yield Hazard(
                "no-freeze-support",
                f"{mount.path} is {mount.kind}, for which the kernel has no freeze",
                f'leave it out of freeze.mounts, or put it into freeze.skip: skip = ["{mount.path}"]',
                mount=mount.path,
            )
        elif mount.read_only:
            yield Hazard(
                "read-only",
                f"{mount.path} is mounted read-only",
                f"see why (dmesg, findmnt {mount.path}); if it is meant so, leave it out of freeze.mounts",
                mount=mount.path,
            )


def _loops(scene: Scene) -> Iterator[Hazard]:
    """Filesystems on a loop device whose file lies on a filesystem to be frozen."""
    for name in scene.names("/sys/block"):
        file = scene.read(f"/sys/block/{name}/loop/backing_file") if name.startswith("loop") else ""
        if not file:
            continue
        file = file.removesuffix("\n").removesuffix(" (deleted)")
        beneath = scene.frozen_beneath(file)
        if beneath is None:
            continue
        names, numbers = _stacked(scene, name)
        seen = set()
        for mount in scene.mounts:
            source = mount.source.removeprefix("/dev/")
            if (mount.device in numbers or source in names) and mount.device not in seen:
                seen.add(mount.device)
                yield from _loop(scene, mount, beneath, file)


def _loop(scene: Scene, mount: Mount, beneath: Mount, file: str) -> Iterator[Hazard]:
    ours = scene.frozen(mount.device)
    lies = f"lies in the file {file} on {beneath.path}"
    if ours is None:
        yield Hazard(
            "loop-file",
            f"{mount.path} {lies}, which is frozen while it is not",
            f"unmount it for the backup (umount {mount.path}), or move the file to a disk that is left out",
            path=file,
            mount=mount.path,
        )
    elif ours.depth <= beneath.depth:
        # Deeper paths are frozen first, and those of one depth at once.
        yield Hazard(
            "loop-order",
            f"{ours.path} {lies}, which would be frozen no later than itself",
            f'leave one of them out: freeze.skip = ["{ours.path}"], or mount it deeper than {beneath.path}',
            path=file,
            mount=ours.path,
        )


def _stacked(scene: Scene, loop: str) -> tuple[set[str], set[str]]:
    """Names and major:minor of a block device, its partitions, and all that is built on them."""
    names: set[str] = set()
    numbers: set[str] = set()
    open_ones = [(loop, f"/sys/block/{loop}")]
    while open_ones:
        name, folder = open_ones.pop()
        if name in names:
            continue
        names.add(name)
        numbers.add(scene.read(f"{folder}/dev").strip())
        mapped = scene.read(f"{folder}/dm/name").strip()
        if mapped:
            names.add(f"mapper/{mapped}")
        open_ones += [(held, f"/sys/block/{held}") for held in scene.names(f"{folder}/holders")]
        open_ones += [
            (part, f"{folder}/{part}")
            for part in scene.names(folder)
            if re.fullmatch(f"{re.escape(name)}p\\d+", part)
        ]
    return names, numbers - {""}


def _nested(scene: Scene) -> Iterator[Hazard]:
    skipped = left_out(scene.mounts, scene.skip)
    for mount in scene.freezing:
        if mount.path == "/":
            continue
        beneath = scene.mount_of(os.path.dirname(mount.path))
        if beneath is not None and beneath.device in skipped and beneath.device != mount.device:
            yield Hazard(
                "nested-mount",
                f"{mount.path} is frozen, and {beneath.path}, on which it is mounted, is in freeze.skip",
                f'freeze both or neither: freeze.skip = ["{beneath.path}", "{mount.path}"]',
                mount=mount.path,
            )


def _skipped_in_part(scene: Scene) -> Iterator[Hazard]:
    """Mounts of freeze.skip whose filesystem is frozen all the same, because it is more than they show."""
    named = {path.rstrip("/") or "/" for path in scene.skip}
    for mount in scene.mounts:
        whole = scene.frozen(mount.device)
        if mount.path in named and whole is not None:
            yield Hazard(
                "skip-part",
                f"{mount.path} is in freeze.skip, and only a part of the filesystem of {whole.path}",
                f'to leave out all of it: freeze.skip = ["{whole.path}"]; or take {mount.path} out',
                path=mount.path,
                mount=whole.path,
            )


def _hidden(scene: Scene) -> Iterator[Hazard]:
    """Filesystems that would be frozen if a path led to them; what is open on them is still written to."""
    known = {mount.device for mount in (*reachable(scene.mounts), *scene.freezing)}
    known |= left_out(scene.mounts, scene.skip)
    for mount in scene.mounts:
        if mount.device not in known and chosen_automatically(mount):
            known.add(mount.device)
            yield Hazard(
                "hidden-mount",
                f"{mount.source}, mounted on {mount.path}, is not frozen: another mount lies over it",
                f"unmount what lies over it, or mount it in a second place: mount {mount.source} FOLDER",
                path=mount.path,
            )


def overlay_folders(options: frozenset[str]) -> list[str]:
    """Full paths of the layers of an overlay mount, from its options in mountinfo; sorted."""
    found: set[str] = set()
    for option in options:
        key, _, value = option.partition("=")
        if key in ("upperdir", "workdir", "lowerdir", "lowerdir+", "datadir+"):
            found.update(unescape(part) for part in value.split(":"))
    return sorted(path for path in found if path.startswith("/"))


def _containers(scene: Scene) -> Iterator[Hazard]:
    found: dict[str, list[str]] = {}
    for mount in scene.mounts:
        if mount.kind == "overlay":
            layers = (scene.frozen_beneath(path) for path in overlay_folders(mount.super_options))
            for beneath in {layer.path for layer in layers if layer is not None}:
                found.setdefault(beneath, []).append(mount.path)
    runtimes = [name for name, path in _SOCKETS.items() if scene.exists(path)]
    who = f", run by {' or '.join(runtimes)}" if runtimes else ""
    for beneath, mounts in sorted(found.items()):
        several = f" and {len(mounts) - 1} more" if len(mounts) > 1 else ""
        yield Hazard(
            "container-storage",
            f"{beneath} holds the layers of the overlay mount {mounts[0]}{several}{who}",
            "put the runtime's storage on a filesystem of its own and into freeze.skip, or let health checks "
            "outlast freeze.timeout",
            path=mounts[0],
            mount=beneath,
        )


def parse_exports(text: str) -> list[str]:
    """Paths of an exports(5) file, of etab, or of /proc/fs/nfsd/exports, in order, each once."""
    found: dict[str, None] = {}
    for line in text.replace("\\\n", " ").split("\n"):
        match = re.match(r'\s*(?:"([^"#]+)"|([^\s#"]+))', line)
        path = unescape(match.group(1) or match.group(2)) if match else ""
        if path.startswith("/"):
            found[path] = None
    return list(found)


def _exports(scene: Scene) -> Iterator[Hazard]:
    threads = scene.read("/proc/fs/nfsd/threads").strip()
    if threads == "0":
        return
    files = [*_EXPORTED]
    if not threads:
        # A server outside the kernel: what is configured is the best that can be known.
        drop_ins = [name for name in scene.names("/etc/exports.d") if name.endswith(".exports")]
        files += ["/etc/exports", *(f"/etc/exports.d/{name}" for name in drop_ins)]
    told = set()
    for file in files:
        for path in parse_exports(scene.read(file)):
            inside = [
                m for m in scene.freezing if m.path == path or m.path.startswith(f"{path.rstrip('/')}/")
            ]
            beneath = scene.frozen_beneath(path) or next(iter(inside), None)
            if beneath is None or path in told:
                continue
            told.add(path)
            yield Hazard(
                "nfs-export",
                f"{path}, exported by NFS ({file}), is on {beneath.path}",
                "take the exports back for the backup (exportfs -ua; after it exportfs -ra), or tell clients",
                path=path,
                mount=beneath.path,
            )
