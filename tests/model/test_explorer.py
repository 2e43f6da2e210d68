"""The explorer itself: it reaches everything, and what it finds first is a shortest counter-example."""

from __future__ import annotations

from tests.model.explorer import explore


def steps(number: int) -> list[tuple[str, int]]:
    """Numbers up to twelve: add one, or double."""
    return [(label, then) for label, then in (("adds one", number + 1), ("doubles", number * 2)) if then <= 12]


def test_every_state_that_can_be_reached_is_reached() -> None:
    found = explore([1], steps, lambda number: None)
    assert (found.states, found.complete, found.broken, found.trace) == (12, True, None, ())


def test_a_counter_example_is_the_shortest_one_and_tells_every_step() -> None:
    found = explore([1], steps, lambda number: "too large" if number >= 8 else None)
    assert found.broken == "too large"
    assert [(step.label, step.state) for step in found.trace] == [
        (None, 1),
        ("adds one", 2),
        ("doubles", 4),
        ("doubles", 8),
    ]


def test_a_beginning_that_is_broken_already_is_told() -> None:
    found = explore([3], steps, lambda number: "odd" if number % 2 else None)
    assert ([step.state for step in found.trace], found.complete) == ([3], False)


def test_what_is_given_up_is_not_called_complete() -> None:
    found = explore([1], steps, lambda number: None, max_states=3)
    assert not found.complete
