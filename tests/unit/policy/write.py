"""Policies for tests: written to a folder, compiled in-process, problems by key."""

from __future__ import annotations

import textwrap
from pathlib import Path

from app.compiler import Compiled, compile_paths
from app.errors import PolicyInvalid, Problem

CUSTOM = """
    version = 1
    name = "{name}"
    {more}
    [[quiesce]]
    mechanism = "command"
    argv = ["/bin/pause"]
    [[release]]
    mechanism = "command"
    argv = ["/bin/resume"]
    proof = true
    [[recover]]
    mechanism = "command"
    argv = ["/bin/resume"]
    """


class Folder:
    """A folder of policies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[str] = []

    def write(self, text: str, name: str = "") -> str:
        """Write a policy and remember it."""
        path = self.path / (name or f"p{len(self.files)}.toml")
        path.write_text(textwrap.dedent(text).lstrip())
        self.files.append(str(path))
        return str(path)

    def custom(self, name: str, more: str = "") -> str:
        """Write an application of the operator's own; ``more`` stands before its steps."""
        text = textwrap.dedent(CUSTOM)
        return self.write(
            text.replace("{name}", name).replace("{more}", textwrap.dedent(more)), f"{name}.toml"
        )

    def compile(self) -> Compiled:
        """Compile all that was written."""
        return compile_paths(self.files)

    def problems(self) -> dict[str, Problem]:
        """The problems of all that was written, by key."""
        try:
            self.compile()
        except PolicyInvalid as error:
            return {problem.key: problem for problem in error.problems}
        return {}
