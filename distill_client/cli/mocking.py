"""`distill teacher mock`: a teacher with faults, for people who write clients."""

import contextlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from distill_client.cli.options import AsJson, say
from distill_client.errors import ConfigError
from distill_client.mock.answering import Answers, HashAnswers, StudentAnswers, student_folder
from distill_client.mock.counting import Counts
from distill_client.mock.faults import FAULTS, Faults
from distill_client.mock.serving import COUNTS_PATH, Mock, MockServer, teacher_toml
from distill_client.mock.shapes import SHAPES, Mocked, Shape
from distill_client.run_folder import write_text

_FAULTS_HELP = "shares of requests, as NAME=SHARE,NAME=SHARE: " + "; ".join(
    f"{name} ({what})" for name, what in FAULTS.items()
)


def mock(
    protocol: Annotated[str, typer.Option(help=f"whose shape it speaks: {', '.join(SHAPES)}")] = "huggingface",
    faults: Annotated[str, typer.Option(help=_FAULTS_HELP)] = "",
    seed: Annotated[int, typer.Option(help="the faults are drawn from it, in the order in which requests come")] = 0,
    answers: Annotated[
        str, typer.Option(help="hash (of the image's bytes), or student:RUN_FOLDER (the student of a finished run)")
    ] = "hash",
    classes: Annotated[str, typer.Option(help="names with commas between them; a student brings its own")] = (
        "0,1,2,3,4,5,6,7,8,9"
    ),
    image_size: Annotated[str, typer.Option(help="height x width x channels; a student brings its own")] = "28x28x1",
    images_per_call: Annotated[int, typer.Option(min=1, max=65_536, help="where the protocol takes several")] = 32,
    slow_s: Annotated[float, typer.Option(min=0, help="how late an answer is that is slow")] = 1.0,
    retry_after_s: Annotated[
        int | None, typer.Option(min=0, help="Retry-After of throttle and overload; without it they have none")
    ] = None,
    honours_idempotency: Annotated[
        bool, typer.Option(help="charge a call that is repeated with its Idempotency-Key once")
    ] = False,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one")] = 0,
    teacher_file: Annotated[
        Path | None, typer.Option(help="write the teacher's file here, for `distill run --teacher FILE`")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a teacher that misbehaves as it is told to, and counts image by image what it charges. Ctrl-C ends it.

    It prints its address and a teacher's file for it. GET /mock/counts shows its own count: charged and answered, in
    all and for the SHA-256 of each image (over shape and bytes, as this client's are), requests, and the faults that
    befell. Answers depend on the image's bytes alone; the seed and the order of requests decide the faults.

    A client is right when, whatever the faults, no image is charged here more often than its own books say, and none
    more than once but those that its books call unknown. For our own protocol with receipts use `teacher serve`.
    """
    mocked, answering = _mocked(answers, classes, image_size, images_per_call)
    served = Mock(
        _shape(protocol, mocked),
        answering,
        Faults.parse(faults, seed),
        Counts(honours_idempotency=honours_idempotency),
        slow_s=slow_s,
        retry_after_s=retry_after_s,
    )
    if served.faults.shares.get("partial") and not served.shape.takes_partial:
        allowed = ", ".join(name for name, kind in SHAPES.items() if kind.takes_partial)
        raise ConfigError(f"--faults names partial, which {protocol} has no form for; allowed with {allowed}")
    try:
        server = MockServer((host, port), served)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port} cannot be listened on: {error.strerror}") from error
    with server:
        _announce(server, teacher_file, as_json=as_json)
        for asked_to_stop in (signal.SIGTERM, signal.SIGINT):  # a shell's background jobs have the second one ignored
            signal.signal(asked_to_stop, _stop)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _shape(protocol: str, mocked: Mocked) -> Shape:
    if protocol not in SHAPES:
        raise ConfigError(f"--protocol is {protocol!r}; allowed are {', '.join(SHAPES)}")
    kind = SHAPES[protocol]
    return kind(replace(mocked, images_per_call=kind.images_per_call_max or mocked.images_per_call))


def _announce(server: MockServer, teacher_file: Path | None, *, as_json: bool) -> None:
    described = teacher_toml(server.mock, server.url)
    if teacher_file is not None:
        write_text(teacher_file.resolve(), described)
    if as_json:
        typer.echo(json.dumps({"url": server.url, "counts": server.url + COUNTS_PATH, "teacher_file": described}))
    else:
        say(f"mock teacher at {server.url}, its counts at {server.url}{COUNTS_PATH}; its teacher's file:")
        typer.echo(described)


def _mocked(answers: str, classes: str, image_size: str, images_per_call: int) -> tuple[Mocked, Answers]:
    if (folder := student_folder(answers)) is not None:
        student = StudentAnswers(folder)
        return Mocked(student.classes, student.image_hwc, images_per_call), student
    names = tuple(name.strip() for name in classes.split(","))
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        raise ConfigError(
            f"--classes is {classes!r}; allowed are two or more different names with commas between them"
        )
    parts = image_size.split("x")
    if (
        len(parts) != 3
        or not all(part.isdecimal() and 1 <= int(part) <= 4096 for part in parts)
        or parts[2] not in "13"
    ):
        raise ConfigError(f"--image-size is {image_size!r}; allowed is such as 28x28x1 or 224x224x3")
    height, width, channels = map(int, parts)
    return Mocked(names, (height, width, channels), images_per_call), HashAnswers(len(names))
