"""Entry point: ``app`` and ``python -m app``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the paths that the extension calls never import click."""
    if sys.argv[1:2] and sys.argv[1] in ("pre", "post"):
        from app.cli.extension import main as extension_main

        sys.exit(extension_main(sys.argv[1:]))
    from app.cli.commands import main as cli_main

    cli_main()


if __name__ == "__main__":
    main()
