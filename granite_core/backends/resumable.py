"""Writing an object in several goes: what a backend promises that claims ``Capability.RESUMABLE_WRITES``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

__all__ = ["ResumableWriter"]


class ResumableWriter(ABC):
    """One go at an object that is written in several, by whichever process comes next.

    Between two goes a *state* is kept by the caller: a short text that says how to go on at a certain offset. Whatever
    was written after the state that is kept is forgotten by the next go. At most one go is meant to be under way, but
    one that was believed dead may wake up at any time: whatever it still does MUST NOT change what a later go makes.

    Used by one thread at a time, though not always the same one. Memory held MUST NOT grow with the object.
    """

    on_joined: Callable[[int], object] | None = None
    """Where ``commit`` joins what lies apart, it calls this with the bytes it has joined so far; what it raises ends
    that, as an error of the store would."""

    stored_size: int | None = None
    """How many bytes the object has, where ``commit`` learned that; where it did not, the store is asked afterwards."""

    offset: int
    """How many bytes of the object were written, by this go and those before."""

    @property
    @abstractmethod
    def state(self) -> str | None:
        """What the caller must keep before the first ``write``: from then on this go leaves traces that it names.

        None where nothing need be kept before the first checkpoint, or what was kept before still holds.
        """

    @abstractmethod
    def write(self, data: Buffer, /) -> None:
        """Take the next bytes, all of them; the caller may reuse the buffer afterwards.

        Raises:
            UnfinishableError: What was written before is gone for good.
            BackendError: They cannot be taken. The writer is then good for ``close`` only.
        """

    @abstractmethod
    def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
        """Make durable what was written, and return the state from which any process goes on at ``offset``.

        Calling it again says that the state before was kept: what only older ones needed may be removed then.

        Args:
            ends: Whether this go ends with it: nothing more is written by it.
            last: Whether the object is complete: only ``commit`` follows, here or in a later go. Says ``ends`` too.

        Raises:
            BackendError: It cannot be made durable. The writer is then good for ``close`` only.
        """

    @abstractmethod
    def commit(self) -> None:
        """Make the object visible, whole and durable under its key. Follows ``checkpoint(last=True)``, its state kept.

        Idempotent: a later go that was given that state, because it is not known how far this one came, commits again
        and succeeds. Afterwards nothing remains but the object, and what ``leftovers`` names; ``discard_unfinished``
        with the same state tries again to remove that.

        Raises:
            UnfinishableError: It is not there, and never will be, however often ``commit`` is tried.
            BackendError: It is not known to be there; ``commit`` may be tried again by a later go.
        """

    @abstractmethod
    def close(self) -> None:
        """End this go, and leave the object to a later one, or to ``discard_unfinished``. Idempotent, never raises."""

    @property
    def leftovers(self) -> Sequence[str]:
        """Reserved keys under which something may be after ``commit``: a removal failed, or a late go may write there.

        Whoever commits sees that they are deleted in the end.
        """
        return ()

    def withdraw(self, *, refused: bool = False) -> None:
        """End this go, for the object was taken from it, or is over: ``close``, and remove what it alone has written.

        What a state names that may have been kept MUST stay, for another goes on from it. As far as that can be done:
        what is left is found by ``clear_unfinished``. Idempotent, never raises.

        Args:
            refused: Whether it is known that the state of the last checkpoint was not kept, so that what only that
                state names goes too.
        """
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
