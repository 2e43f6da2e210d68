"""What policies decide at a flush, on either colour and both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from granite_core import Candidate, StorageManager, ValidationFailedError, unsaved
from tests.integration.sqlalchemy.collecting import age_everything, reconcile, sweep
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
