"""The owner's one-shot services: `bundle`, `key` and `answers`, through the `teacher` command.

What the demo is about comes from demo.json, which the `data` service wrote.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

DEMO = Path("data", "demo.json")
BUNDLE = Path("/bundle/current")
ANSWERS = Path("/answers/teacher-answers.npz")
SECRET = Path("/key/api-key")
NAME = Path("/key/name")


def prepare_bundle() -> None:
    """Put the data set's teacher where it is served from: the committed one, or one that is trained now."""
    dataset = json.loads(DEMO.read_text())["dataset"]
    committed = Path("bundles") / f"{dataset}-lenet5"
    if not committed.is_dir():
        if BUNDLE.exists():
            print("bundle: the teacher that an earlier `up` has trained", flush=True)
            return
        teacher("train", "--dataset", dataset, "--network", "lenet5", "--out", str(BUNDLE))
        return
    unfinished = BUNDLE.with_name("unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for file in committed.iterdir():
        shutil.copyfile(file, unfinished / file.name)
    shutil.rmtree(BUNDLE, ignore_errors=True)
    unfinished.rename(BUNDLE)
    print(f"bundle: {committed.name} is ready to be served", flush=True)


def prepare_answers() -> None:
    """Write the owner's answers on the test split."""
    dataset = json.loads(DEMO.read_text())["dataset"]
    teacher("predict", "--bundle", str(BUNDLE), "--dataset", dataset, "--out", str(ANSWERS))


def prepare_key() -> None:
    """Hand over a key whose remaining budget is what one run costs: a new one, or the handed one after a grant."""
    planned = json.loads(DEMO.read_text())["planned"]
    keys = {key["name"]: key for key in teacher_json("keys", "list")["keys"]}
    name = NAME.read_text() if NAME.exists() and SECRET.exists() else ""
    if name in keys and keys[name]["status"] == "active":
        wanted = planned - keys[name]["remaining"]
        if wanted > 0:
            teacher_json("keys", "grant", "--name", name, str(wanted))
        print(f"key: {name}, as an earlier `up` has issued it, with {max(wanted, 0):,} images added", flush=True)
        return
    name = next(f"demo-{number}" for number in range(1, len(keys) + 2) if f"demo-{number}" not in keys)
    issued = teacher_json("keys", "create", "--name", name, "--budget", str(planned))
    # In this order, so that after a crash a name never stands beside another key's secret.
    SECRET.unlink(missing_ok=True)
    NAME.write_text(name)
    SECRET.write_text(issued["key"])
    print(f"key: {name} is new, with a budget of exactly {planned:,} images, the plan's cost", flush=True)


def teacher(*arguments: str) -> None:
    """Run a `teacher` command; it has said what was wrong when it fails, so only its exit code is passed on."""
    code = subprocess.run(["teacher", *arguments], check=False).returncode
    if code:
        raise SystemExit(code)


def teacher_json(*arguments: str) -> dict[str, Any]:
    """Run a `teacher` command with --json and read what it prints."""
    done = subprocess.run(["teacher", *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


if __name__ == "__main__":
    step = sys.argv[1]
    try:
        {"bundle": prepare_bundle, "answers": prepare_answers, "key": prepare_key}[step]()
    except OSError as error:  # such as a bundle that only its owner may read
        raise SystemExit(f"{step}: {error}; this is user {os.getuid()}") from None
