"""Where each key of a TOML document stands: tomllib gives values, and no lines.

A scanner, not a parser: it trusts that the document is valid and only has to know where keys and
values begin and end. What it cannot place simply has no node, and the nearest table's line serves.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from dataclasses import dataclass, field

Key = str | int


@dataclass(slots=True)
class Node:
    """A key, table or element of an array: its file (as shown to people) and 1-based line."""

    file: str
    line: int
    children: dict[Key, Node] = field(default_factory=dict)

    def find(self, path: tuple[Key, ...]) -> Node:
        """The node at ``path``, or the deepest one above it that is known."""
        node = self
        for key in path:
            child = node.children.get(key)
            if child is None:
                return node
            node = child
        return node


_BLANK = re.compile(r"(?:[ \t\n\r]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"(?!"")|"(?=""""?(?!")))*"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'(?!''))*'{3,5}")
_SCALAR = re.compile(r"[^,\]\}\n#]*")


class _Lost(Exception):
    """The scanner met what it does not expect; what was placed so far is kept."""


def locate(text: str, file: str) -> Node:
    """The tree of key positions of a valid TOML document."""
    root = Node(file, 1)
    # A position is a help, never a reason to fail.
    with contextlib.suppress(_Lost, IndexError, RecursionError, ValueError):
        _Scanner(text.replace("\r\n", "\n"), file, root).document()
    return root


class _Scanner:
    def __init__(self, text: str, file: str, root: Node) -> None:
        self.text, self.file, self.root = text, file, root
        self.position, self.line, self.counted = 0, 1, 0

    def document(self) -> None:
        table = self.root
        while True:
            self.skip(_BLANK)
            if self.position >= len(self.text):
                return
            if self.text.startswith("[[", self.position):
                self.position += 2
                table = self.header(self.key(), array=True)
                self.take("]]")
            elif self.text[self.position] == "[":
                self.position += 1
                table = self.header(self.key(), array=False)
                self.take("]")
            else:
                self.pair(table)

    def header(self, keys: list[str], *, array: bool) -> Node:
        node = self.root
        for key in keys[:-1]:
            node = self.last(self.child(node, key))
        node = self.child(node, keys[-1])
        if array:
            node = self.child(node, len(node.children))
        else:
            node = self.last(node)
            node.line = self.here()
        return node

    @staticmethod
    def last(node: Node) -> Node:
        # A header below an array of tables means that array's last table.
        while node.children and all(isinstance(key, int) for key in node.children):
            node = node.children[max(key for key in node.children if isinstance(key, int))]
        return node

    def child(self, node: Node, key: Key) -> Node:
        if key not in node.children:
            node.children[key] = Node(self.file, self.here())
        return node.children[key]

    def pair(self, table: Node) -> None:
        for key in self.key():
            table = self.child(table, key)
        self.take("=")
        self.value(table)

    def key(self) -> list[str]:
        parts = []
        while True:
            self.skip(_SPACE)
            start = self.text[self.position]
            if start == '"':
                # Escapes in a quoted key: let the real parser read that one string.
                parts.append(str(tomllib.loads("k=" + self.match(_BASIC))["k"]))
            elif start == "'":
                parts.append(self.match(_LITERAL)[1:-1])
            else:
                parts.append(self.match(_BARE_KEY))
            self.skip(_SPACE)
            if self.text[self.position : self.position + 1] != ".":
                return parts
            self.position += 1

    def value(self, node: Node) -> None:
        self.skip(_SPACE)
        start = self.text[self.position]
        if start == "[":
            self.position += 1
            self.array(node)
        elif start == "{":
            self.position += 1
            self.inline(node)
        elif start == '"':
            self.match(_LONG_BASIC if self.text.startswith('"""', self.position) else _BASIC)
        elif start == "'":
            self.match(_LONG_LITERAL if self.text.startswith("'''", self.position) else _LITERAL)
        else:
            self.match(_SCALAR)

    def array(self, node: Node) -> None:
        index = 0
        while True:
            self.skip(_BLANK)
            if self.text[self.position] == "]":
                self.position += 1
                return
            if self.text[self.position] == ",":
                self.position += 1
                continue
            self.value(self.child(node, index))
            index += 1

    def inline(self, node: Node) -> None:
        while True:
            self.skip(_BLANK)
            if self.text[self.position] == "}":
                self.position += 1
                return
            if self.text[self.position] == ",":
                self.position += 1
                continue
            self.pair(node)

    def here(self) -> int:
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return self.line

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()

    def match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None or match.end() == self.position:
            raise _Lost
        self.position = match.end()
        return match.group()

    def take(self, token: str) -> None:
        self.skip(_SPACE)
        if not self.text.startswith(token, self.position):
            raise _Lost
        self.position += len(token)
