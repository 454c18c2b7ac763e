"""What stands in for libraries in the release means the same as they do."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.release.conftest import ROOT

rpds = pytest.importorskip("rpds")


def _shim() -> ModuleType:
    path = ROOT / "build/portable/shims/rpds/__init__.py"
    spec = importlib.util.spec_from_file_location("rpds_shim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHIM = _shim()
KEYS = st.integers(0, 5)


def _outcome(value: Any, name: str, *arguments: Any) -> Any:
    try:
        return getattr(value, name)(*arguments)
    except (KeyError, IndexError) as error:
        return type(error)


@given(st.lists(st.tuples(st.sampled_from(["insert", "remove", "discard", "update", "get"]), KEYS, KEYS)))
def test_maps(steps: list[tuple[str, int, int]]) -> None:
    one, other = rpds.HashTrieMap({0: 0}), SHIM.HashTrieMap({0: 0})
    for name, key, value in steps:
        arguments = {"insert": (key, value), "update": ({key: value, value: key},), "get": (key, value)}
        both = [_outcome(m, name, *arguments.get(name, (key,))) for m in (one, other)]
        if name == "get" or isinstance(both[0], type):
            assert both[0] == both[1]
            continue
        one, other = both
        assert dict(one.items()) == dict(other.items())
        assert len(one) == len(other)
        assert set(one) == set(other)
        assert (key in one) == (key in other)
    assert SHIM.HashTrieMap.convert(other) is other
    assert rpds.HashTrieMap.convert({1: 2})[1] == SHIM.HashTrieMap.convert({1: 2})[1]
    assert _outcome(one, "__getitem__", 99) == _outcome(other, "__getitem__", 99)


@given(st.lists(st.tuples(st.sampled_from(["insert", "remove", "discard", "update"]), KEYS)))
def test_sets(steps: list[tuple[str, int]]) -> None:
    one, other = rpds.HashTrieSet([0]), SHIM.HashTrieSet([0])
    for name, value in steps:
        argument: Any = [value, 9] if name == "update" else value
        both = [_outcome(m, name, argument) for m in (one, other)]
        if isinstance(both[0], type):
            assert both[0] == both[1]
            continue
        one, other = both
        assert set(one) == set(other)
        assert bool(one) == bool(other)


@given(st.lists(st.tuples(st.sampled_from(["push_front", "drop_first"]), KEYS)))
def test_lists(steps: list[tuple[str, int]]) -> None:
    one, other = rpds.List(), SHIM.List()
    for name, value in steps:
        arguments = (value,) if name == "push_front" else ()
        both = [_outcome(m, name, *arguments) for m in (one, other)]
        if isinstance(both[0], type):
            assert both[0] == both[1]
            continue
        one, other = both
        assert list(one) == list(other)
        if len(other):
            assert one.first == other.first
            assert list(one.rest) == list(other.rest)
