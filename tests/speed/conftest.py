"""Pipelines under every name."""

from collections.abc import Callable
from typing import Any

import pytest

from bench import registry


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Registers a factory under every name."""
    return lambda factory: monkeypatch.setattr(registry, "pipeline_factory", lambda name: factory)
