"""A local server, and keys for every recipe."""

from pathlib import Path
from typing import Any

import pytest

from tests.distill_client.teachers.adapters.vendor import vendor
from tests.distill_client.teachers.custom_http.described import (
    SECRET,
)
from tests.distill_client.teachers.custom_http.recipe_servers import AWS_KEY, AWS_SECRET


@pytest.fixture
def theirs() -> Any:
    with vendor() as found:
        yield found


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VERTEX_TOKEN", "GOOGLE_API_KEY", "AZURE_PREDICTION_KEY", "ROBOFLOW_API_KEY", "CLARIFAI_PAT"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("IN_HOUSE_TOKEN", SECRET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", AWS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-token-of-a-role")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
