"""The page examples/own-images/README.md: its very commands, in an empty folder, with less to train and to buy."""

import json
import re
import socket
import subprocess
from pathlib import Path

from tests.e2e.processes import BIN, ENVIRONMENT, PROJECT
from tests.shared.published import load_or_skip

PAGE = PROJECT / "examples" / "own-images" / "README.md"


def typed(text: str, port: int) -> str:
    """The page's shell blocks as one script that ends at the first failure and leaves no server behind."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    script = "\n".join(blocks).replace("PROJECT", str(PROJECT)).replace("8000", str(port))
    shorter = script.replace("--size 64x64x3", "--size 64x64x3 --epochs 1")
    assert shorter != script
    length = "s/^epochs = .*/epochs = 1/; s/^steps = .*/steps = 4/; s/^warmup_steps = .*/warmup_steps = 1/"
    less = f"{length}; s/^images = 1_800/images = 40/"
    settings = f"sed -i '{less}' own-images.toml"
    lines = shorter.split("\n")
    copied = next(index for index, line in enumerate(lines) if line.startswith("cp "))
    stop = "trap 'kill $(jobs -p) || true' EXIT"
    prepared = next(index for index, line in enumerate(lines) if "prepare.py" in line)
    fewer = (
        "find pictures/owner -name '*.jpg' | sort | awk 'NR % 20' | tr '\\n' '\\0' | xargs -0 rm"  # a twentieth stays
    )
    steps = [*lines[: copied + 1], settings, *lines[copied + 1 : prepared + 1], fewer, *lines[prepared + 1 :]]
    return "\n".join(["set -euo pipefail", stop, *steps])


def test_the_pages_commands_work_as_they_stand(tmp_path: Path) -> None:
    load_or_skip("tinyimagenet10", "train")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**ENVIRONMENT, "PATH": f"{BIN}:{ENVIRONMENT['PATH']}"}
    script = typed(PAGE.read_text(), port)

    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "3000 pictures, 200 of them in pictures/mine, unlabelled" in done.stdout
    assert len(re.findall(r"^pictures/mine/\S+\.jpg: ", done.stdout, re.MULTILINE)) == 200
    images = json.loads((tmp_path / "run" / "summary.json").read_text())["images"]
    assert images["planned"] == images["bought"] == images["charged_by_server"] == images["in_audit_log"] == 240
