"""The release's only importer: modules and data from the archive inside the running file.

It takes the place of PyInstaller's bootstrap, which also looks at folders, hooks ctypes and imports a
dozen modules to do so. After it, nothing on a disk is ever imported, whatever stands beside the file or
in the environment. It runs before anything else, so it uses only what is built into the interpreter.
"""

import _frozen_importlib
import atexit
import gc
import marshal
import posix
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DATA = "_stillframe_data"
"""A module of the archive, written by release.spec: ``FILES``, from path to content."""


class Archive:
    """Finder and loader at once (PEP 451) for PyInstaller's archive of modules, PYZ.

    ``place`` is the file and the archive's offset in it, ``home`` what __file__ of a module begins
    with. The file stays open: it may be moved or replaced while it runs.
    """

    def __init__(self, place: str, home: str) -> None:
        path, _, offset = place.rpartition("?")
        self._home = home + "/"
        self._descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        self._start = int(offset)
        # "PYZ\0", Python's magic number, where the list of contents begins; that list ends the archive.
        contents = self._start + int.from_bytes(self._read(8, 4), "big")
        rest = posix.fstat(self._descriptor).st_size - contents
        entries = marshal.loads(posix.pread(self._descriptor, rest, contents))  # noqa: S302 # our own file
        self._entries: dict[str, tuple[int, int, int]] = dict(entries)
        self._data: dict[str, bytes] | None = None

    def _read(self, offset: int, length: int) -> bytes:
        content = posix.pread(self._descriptor, length, self._start + offset)
        if len(content) != length:
            raise ImportError("this file has been cut short")
        return content

    def find_spec(self, name: str, path: object = None, target: object = None) -> "Any":
        """The spec of a module that is inside, else None."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        package = self.is_package(name)
        loader: Any = self  # by what it does
        folder = self._home + name.replace(".", "/")
        origin = folder + ("/__init__.py" if package else ".py")
        spec: Any = _frozen_importlib.ModuleSpec(name, loader, origin=origin, is_package=package)
        spec.has_location = True  # gives the module its __file__
        if package:
            spec.submodule_search_locations.append(folder)
        return spec

    def create_module(self, spec: object) -> None:
        """The usual kind of module."""

    def exec_module(self, module: "Any") -> None:
        """Run a module's code in it."""
        code = self.get_code(module.__spec__.name)
        exec(code, module.__dict__)  # noqa: S102 # what an importer is for

    def get_code(self, name: str) -> "Any":
        """A module's code, for runpy and the like."""
        _, offset, length = self._entries[name]
        return marshal.loads(zlib.decompress(self._read(offset, length)))  # noqa: S302 # our own file

    def get_source(self, name: str) -> None:
        """None: tracebacks show no source."""

    def is_package(self, name: str) -> bool:
        """Whether it is one; PyInstaller's 0 is a module, its 1 a package."""
        return self._entries[name][0] != 0

    def get_data(self, path: str) -> bytes:
        """The content of a data file inside (PEP 302). Raises FileNotFoundError."""
        try:
            return self._files()[path.removeprefix(self._home)]
        except KeyError:
            raise FileNotFoundError(2, "No such file inside the executable", path) from None

    def list_data(self, folder: str) -> list[str]:
        """The names of the data files in a folder inside, sorted."""
        prefix = folder.removeprefix(self._home) + "/"
        return sorted(path.removeprefix(prefix) for path in self._files() if path.startswith(prefix))

    def _files(self) -> dict[str, bytes]:
        if self._data is None:
            self._data = __import__(DATA).FILES
        return self._data

    def hook(self, path: str) -> "Folder":
        """For ``sys.path_hooks``: how pkgutil.iter_modules comes here."""
        if not path.startswith(self._home):
            raise ImportError(path)
        return Folder(self._entries, path.removeprefix(self._home).replace("/", ".") + ".")


class Folder:
    """A package's folder, for pkgutil.iter_modules."""

    def __init__(self, entries: dict[str, tuple[int, int, int]], prefix: str) -> None:
        self._entries = entries
        self._prefix = prefix

    def find_spec(self, name: str, target: object = None) -> None:
        """None: the archive itself has already been asked."""

    def iter_modules(self, prefix: str = "") -> "Any":
        """Name and whether it is a package, of each module in it."""
        for name, entry in self._entries.items():
            last = name.removeprefix(self._prefix)
            if last != name and "." not in last:
                yield prefix + last, entry[0] != 0


def install(place: str, home: str) -> None:
    """Let every import come from what is built in, what is frozen, and the archive."""
    archive = Archive(place, home)
    sys.meta_path[2:] = [archive]
    sys.path_hooks[:] = [archive.hook]
    sys.path_importer_cache.clear()
    sys.path.clear()
    sys.frozen = True  # type: ignore[attr-defined]  # what PyInstaller's programs look at


if hasattr(sys, "_pyinstaller_pyz"):
    # A tenth of a short run would be spent looking for cycles among modules: seldom while they are
    # loaded, and not at all among what is left when it ends.
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)
    install(sys._pyinstaller_pyz, sys._MEIPASS)  # type: ignore[attr-defined]  # set by the bootloader
