"""The writers' transactions: each notes its number and moves money between two accounts.

What a transaction does follows from its number alone. So the set of numbers in a copy says what every
balance must be: one half of a transaction that is there without the other shows, also where the sum of
all balances would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WRITERS = 3
"""How many write at the same time. Each has accounts of its own, so that none waits for another."""

ACCOUNTS = 8
"""Accounts of one writer."""

START = 1000
"""What every account begins with."""

TURN = 1_000_000
"""Numbers that one writer may use in one run; run and writer follow from the number."""

BODY = "x" * 200
"""What a ledger's row holds besides its number, so that pages fill up."""


def first_number(run: int, writer: int) -> int:
    """The number before the first one of a writer in a run; both count from 0."""
    return (run * WRITERS + writer) * TURN


def accounts() -> range:
    """The numbers of all accounts."""
    return range(WRITERS * ACCOUNTS)


@dataclass(frozen=True, slots=True)
class Transfer:
    """What the transaction of a number does."""

    number: int
    source: int
    target: int
    amount: int

    @staticmethod
    def of(number: int) -> Transfer:
        """The same for the same number, always."""
        own = number // TURN % WRITERS * ACCOUNTS
        source = number % ACCOUNTS
        target = (source + 1 + number // ACCOUNTS % (ACCOUNTS - 1)) % ACCOUNTS
        return Transfer(number, own + source, own + target, number * 7919 % 97 + 1)


def broken(commits: set[int], balances: Mapping[int, int]) -> str:
    """In what the balances differ from what these commits make of them; "" where in nothing."""
    expected = dict.fromkeys(accounts(), START)
    for number in commits:
        transfer = Transfer.of(number)
        expected[transfer.source] -= transfer.amount
        expected[transfer.target] += transfer.amount
    if dict(balances) == expected:
        return ""
    total, want = sum(balances.values()), sum(expected.values())
    wrong = {
        name: (balances.get(name), value) for name, value in expected.items() if balances.get(name) != value
    }
    return f"the sum is {total} and must be {want}; account: (is, must be): {wrong}"
