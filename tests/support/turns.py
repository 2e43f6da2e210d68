"""Who collects when, written down by the database itself: triggers on Granite's tables, and the database's clock."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, text

__all__ = ["LEASES", "Turns"]

LEASES = ("lease:sweep", "lease:reconcile")

_WATCH = """
CREATE TABLE seen (
    id bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease text NOT NULL,
    what text NOT NULL,
    holder text,
    expires_at bigint,
    who text NOT NULL DEFAULT current_setting('application_name')
);
CREATE FUNCTION see_lease() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF starts_with(NEW.name, 'lease:') THEN
        INSERT INTO seen (lease, what, holder, expires_at) VALUES (NEW.name, 'lease', NEW.holder, NEW.expires_at);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER see AFTER INSERT OR UPDATE ON granite_state FOR EACH ROW EXECUTE FUNCTION see_lease();
CREATE FUNCTION see_work() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' AND NEW.run IS NULL THEN
        RETURN NULL; -- a writer's, or a note of what a process let go: anybody may
    END IF;
    INSERT INTO seen (lease, what) VALUES (
        CASE WHEN (TG_OP = 'INSERT' OR OLD.run IS NOT NULL) THEN 'lease:reconcile' ELSE 'lease:sweep' END, TG_OP
    );
    RETURN NULL;
END $$;
CREATE TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON granite_tombstone FOR EACH ROW EXECUTE FUNCTION see_work();
"""


@dataclass(frozen=True)
class Turn:
    """Something a collector did: taking or renewing a lease, giving it back (no holder), or work."""

    at: float
    lease: str
    what: str
    holder: str | None
    expires_at: float | None
    who: str

    @property
    def pid(self) -> str | None:
        """The process that holds the lease from now on."""
        return self.holder.split(":")[1] if self.holder else None


class Turns:
    """Watches a PostgreSQL database whose tables exist. Collectors name their process in ``application_name``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with engine.begin() as connection:
            connection.connection.driver_connection.execute(_WATCH)  # several statements, without parameters

    def all(self) -> list[Turn]:
        """Everything so far, in order."""
        columns = "extract(epoch FROM at)::float, lease, what, holder, expires_at::float / 1000, who"
        query = f"SELECT {columns} FROM seen ORDER BY id"
        with self._engine.connect() as connection:
            return [Turn(*row) for row in connection.execute(text(query))]

    def last_of(self, lease: str, pid: int) -> Turn:
        """The last time that a process took or renewed a lease."""
        return [turn for turn in self.all() if turn.lease == lease and turn.pid == str(pid)][-1]

    def heir_of(self, dead: Turn) -> Turn | None:
        """Who took a lease after another one's last time; None as long as nobody has."""
        later = (turn for turn in self.all() if turn.lease == dead.lease and turn.holder and turn.at > dead.at)
        return next(later, None)

    def now(self) -> float:
        with self._engine.connect() as connection:
            return float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())::float")))

    def holders(self) -> dict[str, int]:
        """Which process holds which lease at this moment."""
        query = text("SELECT name, holder FROM granite_state WHERE name LIKE 'lease:%' AND holder IS NOT NULL")
        with self._engine.connect() as connection:
            return {name: int(holder.split(":")[1]) for name, holder in connection.execute(query)}

    def out_of_turn(self) -> list[Turn]:
        """What was done by a process that did not hold the lease, and leases taken from one that still held it."""
        found, holds = [], dict[str, Turn]()
        for turn in self.all():
            before = holds.get(turn.lease)
            if turn.what != "lease":
                if before is None or before.pid != turn.who:
                    found.append(turn)
                continue
            is_taken = before is not None and before.holder and turn.holder not in (before.holder, None)
            if is_taken and turn.at < (before.expires_at or 0):
                found.append(turn)
            holds[turn.lease] = turn
        return found

    def in_transaction(self) -> list[str]:
        """Connections of this database that have sat in a transaction for more than a second."""
        query = text(
            "SELECT application_name || ': ' || query FROM pg_stat_activity WHERE datname = current_database() "
            "AND state LIKE 'idle in transaction%' AND state_change < clock_timestamp() - interval '1 second'"
        )
        with self._engine.connect() as connection:
            return list(connection.scalars(query))
