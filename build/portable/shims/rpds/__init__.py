"""Stands in for rpds, a library in Rust that jsonschema and referencing use for four small classes.

A file that is loaded from the bundle at run time would have to be unpacked first. Only what those two
call is here, with the same meaning: values that never change, each change giving a new one.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Generic, TypeVar

__all__ = ["HashTrieMap", "HashTrieSet", "List"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class HashTrieMap(Mapping[K, V]):
    """A dict that is copied for each change."""

    __slots__ = ("_of",)

    def __init__(self, value: Mapping[K, V] | Iterable[tuple[K, V]] = (), **words: V) -> None:
        self._of: dict[Any, V] = dict(value, **words)

    @classmethod
    def convert(cls, value: Mapping[K, V]) -> HashTrieMap[K, V]:
        """Itself, or a map of the same."""
        return value if isinstance(value, cls) else cls(value)

    def __getitem__(self, key: K) -> V:
        return self._of[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, key: object) -> bool:
        return key in self._of

    def __hash__(self) -> int:
        return hash(frozenset(self._of.items()))

    def __repr__(self) -> str:
        return f"HashTrieMap({self._of!r})"

    def get(self, key: K, default: Any = None) -> Any:
        """The value at ``key``, or ``default``."""
        return self._of.get(key, default)

    def keys(self) -> KeysView[K]:
        """The keys."""
        return self._of.keys()

    def values(self) -> ValuesView[V]:
        """The values."""
        return self._of.values()

    def items(self) -> ItemsView[K, V]:
        """Keys with their values."""
        return self._of.items()

    def insert(self, key: K, value: V) -> HashTrieMap[K, V]:
        """One with ``value`` at ``key``."""
        return HashTrieMap({**self._of, key: value})

    def remove(self, key: K) -> HashTrieMap[K, V]:
        """One without ``key``. Raises KeyError if it is not there."""
        changed = dict(self._of)
        del changed[key]
        return HashTrieMap(changed)

    def discard(self, key: K) -> HashTrieMap[K, V]:
        """One without ``key``."""
        return self.remove(key) if key in self._of else self

    def update(self, *others: Mapping[K, V] | Iterable[tuple[K, V]], **words: V) -> HashTrieMap[K, V]:
        """One with all of theirs too."""
        changed = dict(self._of)
        for other in others:
            changed.update(other)
        changed.update(words)
        return HashTrieMap(changed)


class HashTrieSet(frozenset[T]):
    """A frozenset with rpds' names for changes."""

    __slots__ = ()

    def insert(self, value: T) -> HashTrieSet[T]:
        """One with ``value``."""
        return HashTrieSet((*self, value))

    def remove(self, value: T) -> HashTrieSet[T]:
        """One without ``value``. Raises KeyError if it is not there."""
        if value not in self:
            raise KeyError(value)
        return HashTrieSet(self - {value})

    def discard(self, value: T) -> HashTrieSet[T]:
        """One without ``value``."""
        return HashTrieSet(self - {value})

    def update(self, *others: Iterable[T]) -> HashTrieSet[T]:
        """One with all of theirs too."""
        return HashTrieSet(self.union(*others))


class List(Generic[T]):
    """A linked list that grows at the front."""

    __slots__ = ("_of",)

    def __init__(self, *values: Any) -> None:
        self._of: tuple[T, ...] = tuple(values[0]) if len(values) == 1 else values

    def __iter__(self) -> Iterator[T]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, List) and self._of == other._of

    def __hash__(self) -> int:
        return hash(self._of)

    def __repr__(self) -> str:
        return f"List({list(self._of)!r})"

    @property
    def first(self) -> T:
        """The one at the front. Raises IndexError if there is none."""
        if not self._of:
            raise IndexError("empty list has no first element")
        return self._of[0]

    @property
    def rest(self) -> List[T]:
        """All but the first."""
        return List(self._of[1:])

    def push_front(self, value: T) -> List[T]:
        """One with ``value`` before the others."""
        return List((value, *self._of))

    def drop_first(self) -> List[T]:
        """All but the first. Raises IndexError if there is none."""
        if not self._of:
            raise IndexError("empty list has no first element")
        return List(self._of[1:])
