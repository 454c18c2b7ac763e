"""Entry point: ``app`` and ``python -m app``."""

from __future__ import annotations

import os
import sys

from app import BANNER


def main() -> None:
    """Run the command line; the paths that the extension calls never import click."""
    _occupy_standard_descriptors()
    if sys.argv[1:2] and sys.argv[1] in ("pre", "post"):
        from app.cli.extension import main as extension_main

        sys.exit(extension_main(sys.argv[1:]))
    if sys.argv[1:] == ["--version"]:
        sys.exit(_say_version())
    from app.cli.commands import main as cli_main

    cli_main()


def _say_version() -> int:
    """A check that the binary runs at all, which scripts make often: without click."""
    try:
        os.write(1, f"{BANNER}\n".encode())
    except OSError:
        return 1
    return 0


def _occupy_standard_descriptors() -> None:
    """Whoever starts us with stdin, stdout or stderr closed must not find our journal there."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


if __name__ == "__main__":
    main()
