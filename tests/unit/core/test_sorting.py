from __future__ import annotations

import random
import tracemalloc

from granite_core._sorting import sorted_distinct


def test_strings_come_in_byte_order_each_once() -> None:
    items = ["b", "a/b", "a.txt", "a", "é", "😀", "\uffff", "a\nb", "b", "", "a"]
    for run_length in (1, 2, 3, 100):
        with sorted_distinct(items, run_length=run_length) as found:
            assert [*found] == sorted(set(items), key=str.encode)


def test_everything_is_read_before_anything_is_given() -> None:
    read: list[int] = []
    with sorted_distinct((read.append(n) or str(n) for n in range(100)), run_length=7) as found:
        assert len(read) == 100
        assert next(found) == "0"


def test_memory_stays_flat() -> None:
    numbers = random.Random(1)
    items = (f"documents/{numbers.randrange(10**9):09}" for _ in range(200_000))
    tracemalloc.start()
    try:
        with sorted_distinct(items, run_length=10_000) as found:
            assert sum(1 for _ in found) > 199_000
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
