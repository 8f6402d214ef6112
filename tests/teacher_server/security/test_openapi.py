"""The OpenAPI document is true: schemathesis asks a real server all that it says, and much that it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.wire.error_codes import ERROR_KINDS
from tests.reliability.processes import ENVIRONMENT
from tests.teacher_server.security.conftest import Serve
from tests.teacher_server.support import require_sound

PROJECT = Path(__file__).resolve().parents[3]
# Of a schema-valid label request the images may still be none: that is 422, and no OpenAPI document can say more.
CONFIG = """
[parameters]
"path.name" = "numbers"
"path.version" = "1"

[[operations]]
include-tag = ["labels", "open inference protocol", "hugging face"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 402, 403, 404, 409, 422, 429, 503]
"""


@pytest.mark.parametrize(
    "examples", [pytest.param(15, id="short"), pytest.param(1000, id="long", marks=pytest.mark.soak)]
)
def test_schemathesis_finds_nothing(serve: Serve, tmp_path: Path, examples: int) -> None:
    served = serve()
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "schemathesis", "--config-file", config, "run"),
            *(f"{served.server.url}/openapi.json", "--header", f"Authorization: Bearer {served.secret}"),
            *("--checks", "all", "--max-examples", str(examples), "--continue-on-failure", "--no-color"),
            *("--seed", "1", "--suppress-health-check", "all"),
        ],
        cwd=tmp_path,
        env={
            **ENVIRONMENT,
            "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
            "SCHEMATHESIS_HOOKS": "tests.teacher_server.security.schemathesis_hooks",
        },
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert "21 selected / 21 total" in done.stdout, "every operation was tried"
    assert served.spent() > 0, "some requests were good ones"
    with served.place.open() as database:
        require_sound(database)


def test_every_answer_is_in_the_document(serve: Serve) -> None:
    """No `default` that would make everything true, and no status of ours that no operation has."""
    with serve().client() as client:
        document = client.get("/openapi.json").json()
    statuses: set[str] = set()
    for path in document["paths"].values():
        for operation in path.values():
            assert "default" not in operation["responses"]
            statuses |= set(operation["responses"])
    expected = {str(kind.status) for code, kind in ERROR_KINDS.items() if code != "method_not_allowed"}
    assert statuses == expected | {"200", "402"}, "402 is what 403 is under /hf"
