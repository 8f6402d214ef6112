"""What docker/compose-test runs where an engine answers: each fact of docker-compose.yml, proved and printed.

The real compose file, unchanged, under a project name, a port and folders of its own; at the end everything but the
images is removed. Traffic goes only to containers and networks that are made here, and to the package index while the
images are built (and to the data set's publisher, where no folder has the data set).
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .confinement import BASE, prove_client_reaches_only_its_teacher, prove_containers_are_confined, prove_images
from .engine import PROJECT, Failed, Stack, Up, docker, fact, require

UP_TIMEOUT_S = 600
BUILD_TIMEOUT_S = 1200
ROWS = (
    "our student",
    "agreement with the teacher",
    "counted by the client",
    "charged by the server",
    "all rows agree",
)
ONE_SHOTS = ("data", "bundle", "key", "answers", "runs")
KILLED = 137  # 128 + SIGKILL
AUDIT = 'DISTILL_API_KEY=$(cat /key/api-key) distill audit "$0" --json'
CHAIN = """
import json, pathlib, urllib.request
key, after, events = pathlib.Path("/key/api-key").read_text().strip(), 0, []
while after is not None:
    request = urllib.request.Request(f"http://teacher:8000/v1/events?after={after}")
    request.add_header("Authorization", f"Bearer {key}")
    page = json.load(urllib.request.urlopen(request, timeout=10))
    events, after = events + page["events"], page["next_after"]
print(json.dumps([len(events), events[-1]["hash"]]))
"""


def main() -> None:
    """Prove everything in folders and projects of our own, and leave none of them behind."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    work = Path(tempfile.mkdtemp(prefix="compose-test-"))
    name = f"composetest{os.getpid()}"
    settings = {"DISTILL_RUNS": str(work / "runs"), "DISTILL_DATA": str(data_folder()), "DISTILL_PORT": "0"}
    if os.getuid():  # else the file's own default, so that root need not own what a container wrote
        settings |= {"DISTILL_UID": str(os.getuid()), "DISTILL_GID": str(os.getgid())}
    try:
        with clean(Stack(name, settings), work / "runs") as stack:
            prove_demo(stack, work)
        (work / "no-data").mkdir()
        offline = work / "offline.json"
        offline.write_text(json.dumps({"networks": {"downloads": {"internal": True}}}))
        settings |= {"DISTILL_RUNS": str(work / "digits"), "DISTILL_DATA": str(work / "no-data")}
        files = ("docker-compose.yml", str(offline))
        with clean(Stack(f"{name}digits", settings, files), work / "digits") as stack:
            prove_digits(stack, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    fact(f"all of it took {time.monotonic() - started:.0f} s")


@contextmanager
def clean(stack: Stack, runs: Path) -> Iterator[Stack]:
    """Take the project away in the end, and what it wrote, which may be another user's, in a container that may."""
    try:
        yield stack
    finally:
        stack.remove()
        if runs.is_dir() and any(runs.iterdir()):
            user = f"{stack.settings.get('DISTILL_UID', 1000)}:{stack.settings.get('DISTILL_GID', 1000)}"
            clear = ("--volume", f"{runs}:/runs", BASE, "sh", "-c", "rm -rf /runs/*")
            docker("run", "--rm", "--network", "none", "--user", user, *clear)


def prove_demo(stack: Stack, work: Path) -> None:
    """The demo, in an order in which each step stands on the one before."""
    validate(stack)
    build(stack)
    prove_images()
    with Up(stack, work / "up.log") as up:
        planned = prove_first_up(stack, up, work / "runs")
        prove_containers_are_confined(stack)
        prove_client_reaches_only_its_teacher(stack)
    require(stack.state("teacher")["Status"] == "exited", "Ctrl-C on `up` stops the teacher")
    prove_ledger_outlives(stack, planned)
    prove_second_up(stack, work, planned)


def data_folder() -> Path:
    """Where the data set is mounted from: $DISTILL_DATA, else the first place that `make demo` would find it in."""
    configured = os.environ.get("DISTILL_DATA")
    places = [Path(configured)] if configured else [PROJECT.parent / "shared" / "data", PROJECT / "data"]
    return next((place.resolve() for place in places if (place / "FashionMNIST").is_dir()), places[-1].resolve())


def validate(stack: Stack) -> None:
    """The files are valid, and the GPU override asks for what it says."""
    stack.compose("config", "--quiet")
    version = docker("version", "--format", "{{.Server.Version}}")
    fact(f"docker-compose.yml is valid; engine {version}, compose {stack.compose('version', '--short')}")
    gpu = Stack(stack.name, stack.settings, ("docker-compose.yml", "compose.gpu.yml"))
    teacher = json.loads(gpu.compose("config", "--format", "json"))["services"]["teacher"]
    devices = teacher["deploy"]["resources"]["reservations"]["devices"]
    require(
        devices[0]["driver"] == "nvidia"
        and teacher["environment"]["TEACHER_DEVICE"] == "cuda"
        and teacher["read_only"],
        "compose.gpu.yml is valid: one NVIDIA GPU and TEACHER_DEVICE=cuda for the teacher, as confined as before",
    )


def build(stack: Stack) -> None:
    """Build both images."""
    started = time.monotonic()
    stack.compose("build", "--progress=plain", timeout_s=BUILD_TIMEOUT_S)
    fact(f"images built in {time.monotonic() - started:.0f} s")


def prove_first_up(stack: Stack, up: Up, runs: Path) -> int:
    """The demo, in containers: what it prints, writes and ends with. Returns the number of answers it bought."""
    require(not runs.exists(), "before `docker compose up`, the folder for runs does not exist")
    started = time.monotonic()
    code = up.wait_for_client(UP_TIMEOUT_S)
    require(
        code == 0, f"`docker compose up`: the client ended with {code} after {time.monotonic() - started:.0f} s", up
    )
    ended = {service: stack.state(service)["ExitCode"] for service in ONE_SHOTS}
    require(not any(ended.values()), f"the one-shot services ended with 0: {', '.join(ended)}", up)
    teacher = stack.state("teacher")
    alive = teacher["Status"] == "running" and teacher["Health"]["Status"] == "healthy" and up.process.poll() is None
    require(alive, "the teacher goes on, healthy, and so does `up`", up)
    printed = up.log.read_text(errors="replace")
    missing = [row for row in ROWS if row not in printed]
    require(not missing, f"the table is printed (rows looked for: {', '.join(ROWS)})", up)
    planned = require_equal_counts(stack, runs / "compose")
    report = runs / "compose" / "report.png"
    owner = report.stat()
    require(
        report.read_bytes().startswith(b"\x89PNG") and owner.st_uid != 0,
        f"runs/compose/report.png is a PNG of {owner.st_size:,} bytes, owned by {owner.st_uid}:{owner.st_gid}",
    )
    return planned


def require_equal_counts(stack: Stack, run: Path, *, spent_before: int = 0) -> int:
    """The plan's cost, the three counts, and what the ledger itself says was spent since, are one number."""
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    images: dict[str, int] = summary["images"]
    counts = [images[count] for count in ("planned", "bought", "charged_by_server", "in_audit_log")]
    spent = stack.spent() - spent_before
    require(
        len({*counts, spent}) == 1 and spent > 0,
        f"{summary['name']}: planned {counts[0]:,}, counted by the client {counts[1]:,}, charged by the server "
        f"{counts[2]:,}, in the audit log {counts[3]:,}; spent in the ledger itself {spent:,}",
    )
    return spent


def prove_ledger_outlives(stack: Stack, planned: int) -> None:
    """SIGKILL, and `down` then `up`: the same spent count, the same chain, an audit that still holds."""
    stack.start_teacher()
    before = evidence(stack)
    require(before[0] == planned, f"before: {describe(before)}")
    started = stack.state("teacher")["StartedAt"]
    stack.compose("kill", "--signal", "KILL", "teacher")
    require(stack.state("teacher")["ExitCode"] == KILLED, "the teacher was killed by SIGKILL")
    stack.start_teacher()
    require(stack.state("teacher")["StartedAt"] != started, "the teacher was started again, and is healthy")
    after = evidence(stack)
    require(after == before, f"after SIGKILL: {describe(after)}")
    container = stack.container("teacher")
    stack.compose("down")
    require(not stack.container("teacher"), "`docker compose down` removed the containers")
    stack.start_teacher()
    require(stack.container("teacher") != container, "`docker compose up` made new ones")
    after = evidence(stack)
    require(after == before, f"after `down` and `up`: {describe(after)}")


def evidence(stack: Stack) -> tuple[int, int, str, bool]:
    """Spent images, events in the key's chain, its last hash, and whether the client's audit of its run holds."""
    events, head = json.loads(stack.in_client("python", "-c", CHAIN))
    return stack.spent(), events, head, audit(stack, "/runs/compose")["equal"] is True


def describe(found: tuple[int, int, str, bool]) -> str:
    """One line of evidence."""
    spent, events, head, holds = found
    return f"{spent:,} spent, {events} events, head {head[:12]}, the audit {'holds' if holds else 'does NOT hold'}"


def audit(stack: Stack, run: str) -> dict[str, Any]:
    """`distill audit --json` of a run folder, in the client's container. It verifies the key's whole chain."""
    report: dict[str, Any] = json.loads(stack.in_client("sh", "-c", AUDIT, run))
    return report


def prove_second_up(stack: Stack, work: Path, planned: int) -> None:
    """A second `up` makes a fresh run; where it is killed, both sides, a third resumes it and pays nothing twice."""
    with Up(stack, work / "second.log") as second:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while (spent := spent_or_none(stack)) is None or spent <= planned:
            require_alive(second, deadline)
            time.sleep(0.2)
        stack.compose("kill", "--signal", "KILL", "client", "teacher")
    killed = {service: stack.state(service)["ExitCode"] for service in ("client", "teacher")}
    require(set(killed.values()) == {KILLED}, f"the second `up` had bought {spent - planned:,} when both were killed")
    with Up(stack, work / "third.log") as third:
        code = third.wait_for_client(UP_TIMEOUT_S)
        require(code == 0, f"the third `up`: the client ended with {code}", third)
        printed = third.log.read_text(errors="replace")
        require("nothing is paid for twice" in printed, "it went on with the run that was cut short", third)
        require_equal_counts(stack, work / "runs" / "compose", spent_before=planned)
        report = audit(stack, "/runs/compose")
        require(
            report["equal"] and report["spent_by_other_runs"] == planned,
            f"its audit holds, with {report['spent_by_other_runs']:,} by the first run under the same key",
        )
        earlier = audit(stack, "/runs/compose.previous")
        require(earlier["equal"], "the first run is kept as runs/compose.previous, and its audit holds too")


def spent_or_none(stack: Stack) -> int | None:
    """What was spent; None while the teacher's container is not there to be asked."""
    try:
        return stack.spent()
    except Failed:
        return None


def require_alive(up: Up, deadline: float) -> None:
    """Raise Failed when `up` has ended or the time is over."""
    if up.process.poll() is not None or time.monotonic() > deadline:
        raise Failed(f"the second `up` has not begun to buy:\n{up.tail()}")


def prove_digits(stack: Stack, work: Path) -> None:
    """Without data and without a network: the demo runs on digits, with a teacher that is trained on the spot."""
    with Up(stack, work / "digits.log") as up:
        code = up.wait_for_client(UP_TIMEOUT_S)
        said = "running on scikit-learn's bundled digits instead" in up.log.read_text(errors="replace")
        require(code == 0 and said, "without data and network it says so, and runs on scikit-learn's digits", up)
        require_equal_counts(stack, work / "digits" / "compose")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"compose-test: FAILED: {failure}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("compose-test: stopped", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
