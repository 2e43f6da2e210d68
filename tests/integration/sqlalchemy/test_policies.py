"""What policies decide at a flush, on either colour and both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from granite_core import StorageManager, unsaved
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
