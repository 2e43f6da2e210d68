"""Holds what a server answered against what its OpenAPI document says it answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx
from jsonschema import Draft202012Validator

__all__ = ["Described"]

_NEVER_DESCRIBED = {"connection", "content-length", "content-type", "date", "server"}


@dataclass
class Described:
    """An OpenAPI document, and the answers that were seen to be as it says."""

    document: dict[str, Any]
    seen: set[tuple[str, str, str]] = field(default_factory=set)

    def operation(self, method: str, template: str) -> dict[str, Any]:
        operation: dict[str, Any] = self.document["paths"][template][method.lower()]
        return operation

    def statuses(self, method: str, template: str) -> set[str]:
        return set(self.operation(method, template)["responses"])

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema itself, or the component that it refers to."""
        name = schema.get("$ref", "").rpartition("/")[2]
        return self.document["components"]["schemas"][name] if name else schema

    def body(self, method: str, template: str) -> dict[str, Any]:
        """The schema of an operation's only kind of request."""
        content = self.operation(method, template)["requestBody"]["content"]
        return self.resolve(next(iter(content.values()))["schema"])

    def check(self, template: str, response: httpx.Response) -> None:
        """Fail where the answer differs from its description in status, headers, media type or body."""
        method, status = response.request.method, str(response.status_code)
        where = f"{method} {template} {status}"
        responses = self.operation(method, template)["responses"]
        assert status in responses, f"{where} is not described: {response.text[:500]}"
        described = responses[status]
        self._check_headers(where, described.get("headers", {}), response.headers)
        self._check_body(where, described.get("content"), response)
        self.seen.add((method, template, status))

    def _check_headers(self, where: str, described: dict[str, Any], headers: httpx.Headers) -> None:
        known = {name.lower(): each for name, each in described.items()}
        for name, each in known.items():
            assert name in headers or not each["required"], f"{where}: {name} is missing"
        for name, text in headers.items():
            if name not in known:
                assert name in _NEVER_DESCRIBED, f"{where}: {name} is not described"
                continue
            schema = known[name]["schema"]
            self._validate(f"{where}: {name}", schema, int(text) if schema.get("type") == "integer" else text)

    def _check_body(self, where: str, content: dict[str, Any] | None, response: httpx.Response) -> None:
        if content is None:
            assert response.content == b"", f"{where}: a body is not described"
            return
        media_type = response.headers["content-type"].partition(";")[0]
        key = _matching(content, media_type)
        assert key is not None, f"{where}: {media_type} is not among {list(content)}"
        schema = content[key]["schema"]
        if schema.get("format") == "binary":
            assert isinstance(response.content, bytes)
        else:
            text = schema.get("type") == "string" and media_type == "text/plain"
            self._validate(where, schema, response.text if text else json.loads(response.content))

    def _validate(self, where: str, schema: dict[str, Any], instance: Any) -> None:
        whole = {"allOf": [schema], "components": self.document["components"]}
        errors = [error.message for error in Draft202012Validator(whole).iter_errors(instance)]
        assert not errors, f"{where}: {instance!r}: {errors}"


def _matching(content: dict[str, Any], media_type: str) -> str | None:
    """The key that describes a media type: the most exact one (OpenAPI 3.1, "Response Object")."""
    ranges = (media_type, re.sub("/.*", "/*", media_type), "*/*")
    return next((each for each in ranges if each in content), None)
