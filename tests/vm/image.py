"""What a test VM boots from: a cloud kernel, an initramfs of our own, a root without Python.

All of it is made once and kept under ``.build/vm``; another disk is made when the binary or a file in
``guest/`` has changed. Needs root (debootstrap, loop mounts) and a Debian machine, whose own apt is
asked for the packages.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import scratch

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".build" / "vm"
GUEST = Path(__file__).with_name("guest")

PACKAGES = ("btrfs-progs", "busybox", "e2fsprogs", "kmod", "lvm2", "mdadm", "sqlite3",
            "thin-provisioning-tools", "util-linux")  # fmt: skip

BORROWED = ("mkfs.xfs", "xfs_repair")
"""Programs of this machine's own: their package, xfsprogs, brings Python."""

MODULES = {
    "always": ("virtio_pci", "virtio_blk", "virtio_console"),
    "ext4": ("ext4",),
    "xfs": ("xfs",),
}
"""Loaded before the root is mounted: always, and for its kind of filesystem."""

LATER_MODULES = ("btrfs", "dm-delay", "dm-mod", "dm-snapshot", "dm-thin-pool", "raid1", "xfs")
"""Loaded by the kernel when they are asked for."""

ROOT_MEGABYTES = 700
DATA_MEGABYTES = 320
SWAP_MEGABYTES = 64

STALE_SECONDS = 7200.0
"""More than any run of these tests takes."""


class Unavailable(Exception):
    """This machine cannot have such a VM; the text says why."""


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel, its initramfs, and disks (raw, never written to) by kind of filesystem.

    ``parameters``: further ones for the kernel's command line.
    """

    kernel: Path
    initramfs: Path
    root: Path
    data: Path
    kind: str
    parameters: str = ""


def build(kind: str, binary: Path) -> Image:
    """The image with ``/`` on ``kind`` and a data disk of the same kind. Raises Unavailable."""
    with cache(kind):
        packages = kernel_packages()
        initramfs = initramfs_of(packages)
        root = _root_disk(kind, binary, packages)
        data = data_disk(kind)
    return Image(packages / "vmlinuz", initramfs, root, data, kind)


@contextlib.contextmanager
def cache(kind: str) -> Iterator[None]:
    """The cache, ours alone for as long as the context lasts. Raises Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("needs root")
    for program in ("qemu-system-x86_64", "qemu-img", "debootstrap", "busybox", f"mkfs.{kind}", "setpriv"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            raise Unavailable(f"needs {program}")
    if "ID=debian\n" not in Path("/etc/os-release").read_text(encoding="utf-8"):
        raise Unavailable("needs Debian's kernel packages")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        # Several sessions may share a tree: only one of them makes it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made(name: str, state: str, make: Callable[[Path], None]) -> Path:
    """A file (or folder) of the cache that was made from ``state``, made now where it is missing.

    The state is part of its name, so that one from which a VM runs is never replaced; what nobody has
    asked for in STALE_SECONDS goes.
    """
    plain = Path(name)
    digest = hashlib.sha256(state.encode()).hexdigest()[:12]
    path = CACHE / f"{plain.stem}-{digest}{plain.suffix}"
    if not path.exists():
        new = CACHE / f"{name}.new"
        _remove(new)
        make(new)
        new.rename(path)
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # the time of use; others go by the other
    alike = re.compile(f"{re.escape(plain.stem)}-[0-9a-f]{{12}}{re.escape(plain.suffix)}")
    for other in CACHE.iterdir():
        if alike.fullmatch(other.name) and other.stat().st_atime < time.time() - STALE_SECONDS:
            _remove(other)
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def kernel_packages() -> Path:
    """A folder with ``vmlinuz``, ``busybox`` (static) and the modules."""

    def make(folder: Path) -> None:
        folder.mkdir()
        depends = fetch("apt-cache", "depends", "linux-image-cloud-amd64")
        found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends)
        if not found:
            raise Unavailable("apt knows no linux-image-cloud-amd64")
        fetch("apt-get", "download", "-o", "APT::Sandbox::User=root", found[1], "busybox-static", cwd=folder)
        for package in list(folder.glob("*.deb")):
            run("dpkg-deb", "--extract", str(package), str(folder / "x"))
            package.unlink()
        next((folder / "x/boot").glob("vmlinuz-*")).rename(folder / "vmlinuz")
        (folder / "x/bin/busybox").rename(folder / "busybox")
        next((folder / "x/lib/modules").iterdir()).rename(folder / "modules")
        shutil.rmtree(folder / "x")

    return made("kernel", "1", make)


def initramfs_of(packages: Path) -> Path:
    inside = {"init": GUEST / "initramfs", "bin/busybox": packages / "busybox"}
    state = "\n".join(
        [str(MODULES), inside["init"].read_text(encoding="utf-8"), str(packages.stat().st_mtime_ns)]
    )

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder)
            (tree / "bin").mkdir()
            (tree / "modules").mkdir()
            for target, source in inside.items():
                shutil.copy(source, tree / target)
            for name, wanted in MODULES.items():
                order = []
                for module in modules_in_order(packages / "modules", wanted):
                    order.append(f"{plain_name(module)}.ko\n")
                    content = module.read_bytes()
                    if module.suffix == ".xz":
                        content = lzma.decompress(content)
                    (tree / "modules" / order[-1].strip()).write_bytes(content)
                (tree / f"modules/{name}").write_text("".join(order), encoding="ascii")
            names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*")))
            with path.open("wb") as file:
                subprocess.run(
                    ["busybox", "cpio", "-o", "-H", "newc"],
                    cwd=tree, input=names.encode(), stdout=file, stderr=subprocess.DEVNULL, check=True,
                )  # fmt: skip

    return made("initramfs", state, make)


def plain_name(module: Path) -> str:
    return module.name.partition(".")[0]


def modules_in_order(folder: Path, wanted: Sequence[str]) -> list[Path]:
    """Files of the modules wanted and of what they need, each after what it needs itself."""
    # The kernel takes - and _ in a module's name as the same.
    files = {plain_name(path).replace("-", "_"): path for path in folder.rglob("*.ko*")}
    order: dict[Path, None] = {}

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None:
            return  # built in
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        found = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in found[1].decode().split(",") if found else ():
            if needed:
                add(needed)
        order.setdefault(path)

    # The checksum's driver is asked for by name at run time, which no dependency says.
    for name in ("crc32c_generic", *wanted):
        add(name)
    return list(order)


def root_archive(
    name: str = "root.tar", packages: Sequence[str] = PACKAGES, unpacked: Sequence[str] = ()
) -> Path:
    """The root's files but ours, as a tar archive.

    ``unpacked``: packages whose files alone are wanted, without what else they ask for.
    """
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    suite = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    if not suite:
        raise Unavailable("this Debian has no code name")

    def make(path: Path) -> None:
        mirror = fetch("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch_folder:
            tree = Path(scratch_folder, "root")
            include = f"--include={','.join(packages)}"
            first = mirror.split()[:1]
            try:
                fetch("debootstrap", "--variant=minbase", include, suite[1], str(tree), *first)
            finally:
                # Where debootstrap was interrupted these may still be mounted.
                for inside in ("proc", "sys"):
                    subprocess.run(["umount", "--quiet", str(tree / inside)], stderr=subprocess.DEVNULL)
            if unpacked:
                fetch("apt-get", "download", "-o", "APT::Sandbox::User=root", *unpacked, cwd=tree.parent)
            for package in tree.parent.glob("*.deb"):
                _unpack(package, tree)
            for heavy in ("usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/info",
                          "usr/lib/udev/hwdb.d", "var/cache/apt", "var/lib/apt/lists"):  # fmt: skip
                shutil.rmtree(tree / heavy, ignore_errors=True)
            python = sorted(tree.glob("usr/bin/python*"))
            assert not python, f"the VM was to have no Python: {python}"
            run("tar", "--create", "--numeric-owner", f"--directory={tree}", f"--file={path}", ".")

    return made(name, " ".join((suite[1], *packages, *unpacked)), make)


def _unpack(package: Path, tree: Path) -> None:
    # dpkg-deb --extract would put folders in the place of links such as /sbin.
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
        extract = ["tar", "--extract", "--numeric-owner", "--keep-directory-symlink", f"--directory={tree}"]
        subprocess.run(extract, stdin=files.stdout, check=True)


def _root_disk(kind: str, binary: Path, packages: Path) -> Path:
    archive = root_archive()
    ours = sorted(path for path in GUEST.iterdir() if path.is_file())
    state = [sha256(path) for path in (binary, Path(__file__), *ours, *map(_program, BORROWED))]

    def make(path: Path) -> None:
        with mounted(kind, path, ROOT_MEGABYTES) as tree:
            run("tar", "--extract", "--numeric-owner", f"--directory={tree}", f"--file={archive}")
            _furnish(tree, binary)
            install_modules(tree, packages, LATER_MODULES)
            for name in BORROWED:
                borrow(_program(name), tree / "usr/sbin", tree)

    stamps = (archive.stat().st_mtime_ns, packages.stat().st_mtime_ns)
    return made(f"root-{kind}.img", f"{stamps} {state}", make)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _program(name: str) -> Path:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise Unavailable(f"needs {name}")
    return Path(found)


def borrow(program: Path, folder: Path, tree: Path) -> None:
    """Copy a program of this machine's into ``folder``, and into ``tree`` the libraries that it lacks."""
    shutil.copy(program, folder / program.name)
    for library in re.findall(r" => (/\S+)", run("ldd", str(program))):
        name = Path(library).name
        target = tree / "usr/lib/x86_64-linux-gnu" / name
        if not target.exists():
            shutil.copy(library, target)


def install_modules(tree: Path, packages: Path, wanted: Sequence[str]) -> None:
    """Put modules, and those that they need, where modprobe finds them."""
    folder = tree / "usr/lib/modules" / _kernel_version(packages)
    for module in modules_in_order(packages / "modules", wanted):
        target = folder / module.relative_to(packages / "modules")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, target)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(packages / "modules" / name, folder / name)
    run("chroot", str(tree), "depmod", folder.name)


def _kernel_version(packages: Path) -> str:
    """The release of the kernel, as it stands in its header (Documentation/arch/x86/boot.rst)."""
    header = (packages / "vmlinuz").read_bytes()[:0x8000]
    start = int.from_bytes(header[0x20E:0x210], "little") + 0x200
    return header[start : header.index(b" ", start)].decode()


def _furnish(tree: Path, binary: Path) -> None:
    """Put in what is ours, and what a first boot would otherwise do."""
    furnish(tree)
    install(GUEST / "boot", tree / "usr/local/lib/stillframe/boot", 0o755)
    install(binary, tree / "usr/local/bin/app", 0o755)
    install(GUEST / "inittab", tree / "etc/inittab", 0o644)
    init = tree / "sbin/init"
    init.unlink(missing_ok=True)
    init.symlink_to("/bin/busybox")


def furnish(tree: Path) -> None:
    """Put in what every guest has, whatever its init: the agent, the applications, swap."""
    library = tree / "usr/local/lib/stillframe"
    library.mkdir()
    install(GUEST / "agent", library / "agent", 0o755)
    for name in ("writer", "take-snapshot", "orders-server", "orders-ctl", "scanner", "stacks"):
        install(GUEST / name, tree / "usr/local/bin" / name, 0o755)
    with (tree / "etc/passwd").open("a") as passwd, (tree / "etc/group").open("a") as group:
        passwd.write("orders:x:900:900::/var/lib/orders:/bin/sh\n")
        group.write("orders:x:900:\n")
    for folder, owner in (("data", 0), ("srv/orders", 0), ("var/lib/orders", 900)):
        (tree / folder).mkdir(parents=True)
        os.chown(tree / folder, owner, owner)
    swap = tree / "swapfile"
    # Written in full: a swap file must have no holes.
    swap.write_bytes(bytes(1 << 20) * SWAP_MEGABYTES)
    swap.chmod(0o600)
    run("mkswap", str(swap))


def install(source: Path, target: Path, mode: int) -> None:
    shutil.copy(source, target)
    os.chown(target, 0, 0)
    target.chmod(mode)


def data_disk(kind: str) -> Path:
    """An empty disk with a filesystem."""

    def make(path: Path) -> None:
        with mounted(kind, path, DATA_MEGABYTES):
            pass

    return made(f"data-{kind}.img", f"{DATA_MEGABYTES}", make)


@contextlib.contextmanager
def mounted(kind: str, path: Path, megabytes: int) -> Iterator[Path]:
    """A new filesystem in a sparse file, mounted."""
    with scratch.filesystem(kind, megabytes, below=CACHE) as volume:
        yield volume.mount
        # A second name, because the folder goes with the context; nobody looks before the unmount.
        os.link(volume.image, path)


def run(*argv: str, cwd: Path | None = None) -> str:
    environ = {**os.environ, "LC_ALL": "C", "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    environ["DEBIAN_FRONTEND"] = "noninteractive"
    done = subprocess.run(
        argv, cwd=cwd, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
    return done.stdout


def fetch(*argv: str, cwd: Path | None = None) -> str:
    """Run what asks a package server: its failure means that this machine cannot have a VM."""
    try:
        return run(*argv, cwd=cwd)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise Unavailable(f"{argv[0]} failed: {''.join(last)}") from error
