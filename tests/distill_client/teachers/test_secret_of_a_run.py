"""A whole run over custom-http, of a server that repeats the key wherever it can: nobody ever sees it again."""

import base64
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image
from typer.testing import CliRunner

from distill_client.cli import app
from tests.distill_client.fakes import tiny_config
from tests.distill_client.teachers.adapters.vendor import Asked, Reply, vendor

SECRET = "s3cr3t/with+odd=characters"
DIGITS = list("0123456789")


def answer(asked: Asked) -> Reply:
    assert asked.headers["x-api-key"] == SECRET
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(asked.json["image"]))), np.float64)
    scores = pixels.reshape(-1)[:780].reshape(10, 78).sum(axis=1) + 1
    rows = [
        {"name": name, "score": score, "key": SECRET}
        for name, score in zip(DIGITS, scores / scores.sum(), strict=True)
    ]
    return Reply({"results": rows, "debug": f"asked with {SECRET}"}, headers={"X-Debug": SECRET})


def test_a_whole_run_keeps_and_shows_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("THEIR_KEY", SECRET)
    config = tiny_config()
    (tmp_path / "run.toml").write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    with vendor() as theirs:
        file = {
            "kind": "custom-http",
            "name": "theirs",
            "url": f"{theirs.url}/classify",
            "secrets": [{"variable": "THEIR_KEY", "header": "X-Api-Key"}],
            "classes": DIGITS,
            "image_size": "28x28x1",
            "max_queries": config.budget_images,
            "i_have_permission": True,
            "request": {"template": {"image": "{image_base64}"}},
            "reply": {"rows": "results", "label": "name", "score": "score"},
        }
        (tmp_path / "teacher.toml").write_text(tomli_w.dumps(file))

        def distill(*words: object) -> str:
            done = CliRunner().invoke(app, [str(word) for word in words])
            return f"{done.output}{done.exception or ''}"

        # The first run is refused in the middle, with the key in what the server says of it; then it goes on.
        theirs.answer = lambda asked: (
            answer(asked) if len(theirs.asked) <= 20 else Reply({"error": f"{SECRET} is blocked"}, 403)
        )
        said = distill(
            "run", tmp_path / "run.toml", "--teacher", tmp_path / "teacher.toml", "--out", tmp_path / "run"
        )
        assert "[secret] is blocked" in said
        theirs.answer = answer
        said += distill("resume", tmp_path / "run", "--json") + distill("audit", tmp_path / "run")
        assert (
            json.loads((tmp_path / "run" / "summary.json").read_text())["images"]["answered"] == config.budget_images
        )
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 10
    encoded = base64.b64encode(SECRET.encode())
    assert [path for path in kept if SECRET.encode() in path.read_bytes() or encoded in path.read_bytes()] == []
    assert SECRET not in said + caplog.text
