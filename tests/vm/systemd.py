"""A second image: systemd is its init, ``app install --root`` put the binary there, still no Python.

It has the real auditd, journald and NFS server of the distribution, and the kernel's modules for what is
mounted in these tests.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from tests.vm import image
from tests.vm.image import GUEST, Image, Unavailable

PACKAGES = ("auditd", "busybox", "dbus", "dosfstools", "e2fsprogs", "fapolicyd", "kmod", "restic", "sqlite3",
            "systemd-sysv", "udev", "util-linux")  # fmt: skip

UNPACKED = ("nfs-kernel-server", "nfs-common")
"""Their packages ask for Python, which nothing of them needs here."""

MODULES = ("ext4", "loop", "nfsd", "nfsv4", "overlay", "vfat", "nls_ascii", "nls_cp437", "xfs")

OURS = GUEST / "systemd"

UNITS = ("agent.service", "found-at-boot.service", "orders.service")

WANTED = ("agent.service", "found-at-boot.service")

DISABLED = ("auditd.service", "fapolicyd.service")
"""Started by the tests that are about them."""

MASKED = ("apt-daily-upgrade.timer", "apt-daily.timer", "dev-hugepages.mount", "dev-mqueue.mount",
          "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer",
          "getty@tty1.service", "serial-getty@ttyS0.service", "sys-kernel-debug.mount",
          "sys-kernel-tracing.mount", "systemd-logind.service", "systemd-pstore.service",
          "systemd-update-utmp-runlevel.service", "systemd-update-utmp.service",
          "systemd-user-sessions.service")  # fmt: skip
"""What these tests do not need, so that an emulated machine is up sooner."""

ROOT_MEGABYTES = 900


def build(kind: str, binary: Path, package: Path | None = None) -> Image:
    """The image with ``/`` on ``kind`` and a data disk of the same kind. Raises Unavailable.

    ``package``: a .deb that is installed in place of the binary.
    """
    with image.cache(kind):
        packages = image.kernel_packages()
        initramfs = image.initramfs_of(packages)
        root = _root_disk(kind, package or binary, packages)
        data = image.data_disk(kind)
    return Image(packages / "vmlinuz", initramfs, root, data, kind)


def _root_disk(kind: str, ours: Path, packages: Path) -> Path:
    archive = image.root_archive("root-systemd.tar", (*PACKAGES, *_needed(UNPACKED)), UNPACKED)
    inputs = [ours, Path(__file__), Path(image.__file__), *sorted(p for p in GUEST.rglob("*") if p.is_file())]
    state = [hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs]

    def make(path: Path) -> None:
        with image.mounted(kind, path, ROOT_MEGABYTES) as tree:
            image.run("tar", "--extract", "--numeric-owner", f"--directory={tree}", f"--file={archive}")
            image.furnish(tree)
            _modules(tree, packages)
            _units(tree)
            if ours.suffix == ".deb":
                image.run("dpkg", "--root", str(tree), "--install", str(ours))
            else:
                image.run(str(ours), "install", "--root", str(tree))

    stamps = (archive.stat().st_mtime_ns, packages.stat().st_mtime_ns)
    return image.made(f"root-systemd-{kind}.img", f"{stamps} {state}", make)


def _needed(packages: tuple[str, ...]) -> list[str]:
    """What these packages depend on, Python and themselves left out."""
    said = image.fetch("apt-cache", "depends", *packages)
    found = set(re.findall(r"^  (?:Pre)?Depends: ([a-z0-9][a-z0-9.+-]*)$", said, re.MULTILINE))
    if not found:
        raise Unavailable(f"apt does not know {' '.join(packages)}")
    return sorted(name for name in found - {*packages, "rpcbind", "ucf"} if not name.startswith("python3"))


def _modules(tree: Path, packages: Path) -> None:
    folder = tree / "usr/lib/modules" / _version(packages)
    for module in image.modules_in_order(packages / "modules", MODULES):
        target = folder / module.relative_to(packages / "modules")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, target)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(packages / "modules" / name, folder / name)
    image.run("chroot", str(tree), "depmod", folder.name)


def _version(packages: Path) -> str:
    """The release of the kernel, as it stands in its header (Documentation/arch/x86/boot.rst)."""
    header = (packages / "vmlinuz").read_bytes()[:0x8000]
    start = int.from_bytes(header[0x20E:0x210], "little") + 0x200
    return header[start : header.index(b" ", start)].decode()


def _units(tree: Path) -> None:
    image.install(OURS / "ports", tree / "usr/local/lib/stillframe/ports", 0o755)
    for name in ("locker", "stalls", "syslogger"):
        image.install(OURS / name, tree / "usr/local/bin" / name, 0o755)
    system = tree / "etc/systemd/system"
    for name in UNITS:
        image.install(OURS / name, system / name, 0o644)
    wants = system / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for name in WANTED:
        (wants / name).symlink_to(f"../{name}")
    for name in DISABLED:
        (wants / name).unlink(missing_ok=True)
    for name in MASKED:
        (system / name).unlink(missing_ok=True)
        (system / name).symlink_to("/dev/null")
        (wants / name).unlink(missing_ok=True)
    (system / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    (tree / "etc/fstab").write_text(
        "/dev/vda / auto defaults 0 0\n/dev/vdb /data auto defaults 0 0\n/swapfile none swap sw 0 0\n"
    )
    (tree / "etc/hostname").write_text("guest\n")
    # A first boot would make one, and with it enable whatever a package would have enabled.
    (tree / "etc/machine-id").write_text("5717f5a3e0d94cd88c53a4b0c28c1b5e\n")
