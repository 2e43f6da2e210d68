"""The coupling to the session; see the design's section on it."""


def install() -> None:
    """Listen to every session and mapper; done once, by the first file column that is declared."""
