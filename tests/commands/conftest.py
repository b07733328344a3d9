"""Commands read videos in this process here: one of their own takes a second to start."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from stts_cli.engine import ask

    monkeypatch.setattr(ask, "WORKERS", 0)
