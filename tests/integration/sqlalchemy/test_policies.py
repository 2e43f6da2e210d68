"""What policies decide at a flush, on either colour and both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select

from granite_core import Candidate, StorageManager, ValidationFailedError, unsaved
from granite_core.integrations.sqlalchemy._transaction import transaction_of
from tests.integration.sqlalchemy.collecting import GRACE_MS, MINUTE, age_everything, bury, keep, reconcile, sweep
from tests.integration.sqlalchemy.world import GRACE, Base, Document, World


def with_policy(world: World, **options: Any) -> None:
    """Change the policy that documents are stored under."""
    policies = [replace(world.manager.get_policy("documents"), **options), world.manager.get_policy("pages")]
    world.manager = StorageManager({"main": world.backend}, policies, grace=GRACE, now=world.manager.now)
    world.manager.register(Base)


class TestKeyTemplates:
    def test_model_and_field_are_known_at_flush_and_the_rest_comes_with_the_content(self, world: World) -> None:
        with_policy(world, key_template="{tenant}/{model_name}/{field_name}")

        def scenario() -> str:
            with world.session() as session:
                document = Document(file=unsaved(b"x", filename="a.txt", context={"tenant": "acme"}))
                session.add(document)
                session.commit()
                assert document.file is not None
                location = document.file.location
            world.check_laws()
            return location

        *folders, name = world.run(scenario).split("/")
        assert folders == ["acme", "document", "file"]
        assert name.endswith(".txt")


def refuse(candidate: Candidate) -> None:
    raise ValueError("no good")


async def refuse_later(candidate: Candidate) -> None:
    await asyncio.sleep(0)
    refuse(candidate)


class TestValidators:
    @pytest.mark.parametrize("validator", [refuse, refuse_later])
    def test_what_a_validator_refuses_at_flush_is_gone_and_no_row_is_written(
        self, world: World, validator: Any
    ) -> None:
        with_policy(world, validators=[validator])

        def scenario() -> None:
            with world.session() as session:
                session.add(Document(file=unsaved(b"x")))
                with pytest.raises(ValidationFailedError, match=r"^file: no good$"):
                    session.commit()
            assert world.stored() == set()
            with world.session() as session:
                assert session.scalar(select(func.count()).select_from(Document)) == 0

        world.run(scenario)

    @pytest.mark.parametrize("colour", ["sync", "async"])
    def test_a_flush_has_each_file_looked_at_once(self, world: World, colour: str) -> None:
        looked: list[bytes] = []

        def look(candidate: Candidate) -> None:
            with candidate.open() as file:
                looked.append(file.read())

        async def look_on_loop(candidate: Candidate) -> None:
            async with await candidate.open_async() as reader:
                looked.append(await reader.read())

        with_policy(world, validators=[look if colour == "sync" else look_on_loop])

        def scenario() -> None:
            with world.session() as session:
                document = Document(title="a", file=unsaved(b"x"))
                session.add(document)
                session.flush()
                document.title = "b"
                session.commit()
            world.check_laws()

        world.run(scenario)
        assert looked == [b"x"]

    def test_a_file_whose_process_died_before_it_was_looked_at_is_collected(self, world: World) -> None:
        with_policy(world, validators=[refuse])

        def scenario() -> None:
            with world.manager.stage("documents") as write:
                write.write(b"x")
                write.store()  # and nothing more: its process dies here
            assert len(world.stored()) == 1
            assert reconcile(world).noted == 1
            age_everything(world)
            assert sweep(world).deleted == 1
            assert world.stored() == set()

        world.run(scenario)


DAY = timedelta(days=1)
DAY_MS = 24 * 60 * MINUTE


class TestRetention:
    @pytest.mark.parametrize("how", ["replaced", "cleared", "deleted"])
    def test_what_is_let_go_stays_for_the_grace_and_the_retention(self, world: World, how: str) -> None:
        with_policy(world, retention=DAY)

        def scenario() -> None:
            old = keep(world, title="a")
            with world.session() as session:
                document = session.scalars(select(Document)).one()
                if how == "deleted":
                    session.delete(document)
                else:
                    document.file = unsaved(b"new") if how == "replaced" else None
                session.commit()
            age_everything(world, GRACE_MS + MINUTE)
            waits = sweep(world)
            assert (waits.examined, waits.waiting) == (0, 1)
            assert old.location in world.stored()
            age_everything(world, DAY_MS)
            gone = sweep(world)
            assert (gone.deleted, gone.waiting) == (1, 0)
            assert old.location not in world.stored()
            world.check_laws()

        world.run(scenario)

    def test_of_several_tombstones_the_latest_due_counts(self, world: World) -> None:
        with_policy(world, retention=DAY)

        def scenario() -> None:
            ref = keep(world, title="a")
            with world.session() as session:
                session.delete(session.scalars(select(Document)).one())
                session.commit()
            bury(world, ref.location)  # an older one, of a note, is due
            age_everything(world)
            assert sweep(world).younger == 1
            assert world.stored() == {ref.location}
            assert world.tombstones() == [ref.location]
            age_everything(world, DAY_MS)
            assert sweep(world).deleted == 1

        world.run(scenario)

    def test_what_was_never_attached_goes_after_the_grace(self, world: World) -> None:
        with_policy(world, retention=DAY)

        def scenario() -> None:
            with world.session() as session:
                session.add(Document(file=unsaved(b"x")))
                session.flush()
                session.rollback()
            sweep(world)  # writes the note down
            age_everything(world)
            assert sweep(world).deleted == 1
            assert world.stored() == set()

        world.run(scenario)

    def test_what_a_statement_past_the_session_let_go_stays_as_long(self, world: World) -> None:
        with_policy(world, retention=DAY, key_prefix="docs")

        def scenario() -> None:
            ref = keep(world, title="a")
            world.store.put_bytes("docs-of-others/x", b"")
            with world.engine.begin() as connection:
                connection.execute(delete(Document))
            assert reconcile(world).noted == 2
            age_everything(world)
            assert sweep(world).deleted == 1
            assert world.stored() == {ref.location}
            age_everything(world, DAY_MS)
            assert sweep(world).deleted == 1

        world.run(scenario)

    def test_a_renewed_tombstone_keeps_its_retention(self, world: World) -> None:
        with_policy(world, retention=DAY)

        def scenario() -> None:
            keep(world, title="a")
            with world.session() as session:
                session.delete(session.scalars(select(Document)).one())
                session.flush()
                transaction_of(session).tombstones[0].written -= GRACE.total_seconds()
                session.commit()
            age_everything(world)
            assert sweep(world).waiting == 2

        world.run(scenario)
