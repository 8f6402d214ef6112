"""`distill run` and `distill resume`: buy, train, audit; and the same again after a kill."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_client.cli.connecting import allowance_of, connected, on_account_of
from distill_client.cli.measuring import draw, print_summary
from distill_client.cli.options import (
    AsJson,
    ConfigFile,
    Device,
    RunDir,
    StrictPool,
    TeacherUrl,
    err,
    require_device,
    say,
)
from distill_client.cli.planning import read_material
from distill_client.commands import resume_command
from distill_client.config import load_config
from distill_client.errors import AuditMismatch, ConfigError, DistillError, PoolUnfit
from distill_client.run_folder import TEACHER_FILE, RunFolder, create_run, open_run, require_free, write_text
from distill_client.teachers.native.receipts import UNSIGNED, Pin
from distill_client.teachers.native.teacher import NativeTeacher
from distill_client.teachers.teacher_toml import self_contained_text

if TYPE_CHECKING:
    from distill_client.material import Material
    from distill_client.teachers.paid.allowance import Allowance


def run(
    config: ConfigFile,
    teacher: Annotated[
        str, typer.Option(help="address of the teacher server, such as http://127.0.0.1:8000; or a *.toml")
    ],
    out: Annotated[Path, typer.Option(help="the run folder to make; must be empty or not exist")],
    device: Device = "cpu",
    as_json: AsJson = False,
    signing_key: Annotated[
        str | None,
        typer.Option(
            help="fingerprint (64 hex digits) that the teacher's receipts must be signed by, as its owner told you; "
            "without it the key found now is believed from now on"
        ),
    ] = None,
    strict_pool: StrictPool = False,
) -> None:
    """Buy the answers, train the student and its baselines, and audit the bill.

    --teacher is the address of one of our servers, or a teacher's file (*.toml) that describes any other.

    Every answer of our servers comes with a receipt, verified before it is kept, by the signing key that was found,
    or demanded, at the run's beginning. What other teachers are asked for is counted by the client itself, in the run
    folder, before it is sent, and never exceeds max_queries and max_cost of the teacher's file.

    Where the answers to the pool say that it does not fit the teacher, that is said before more is bought; with
    --strict-pool the run stops then.

    The key is read from DISTILL_API_KEY. A run that stops for any reason goes on with `distill resume OUT`, and
    nothing is paid for twice.
    """
    from distill_client.material import check_budget, check_card
    from distill_client.teachers.protocol import key_identity

    experiment = load_config(config)
    _require_fingerprint(signing_key)
    require_device(device)
    require_free(out)
    with connected(teacher, experiment) as server:
        card = server.card()
        is_ours = isinstance(server, NativeTeacher)
        pin = Pin.at_first_use(server, signing_key)
        material = read_material(experiment, card)
        check_card(experiment, card, material.pool)
        check_budget(material.cost, card)
        allowance = allowance_of(server)
        if allowance is not None:
            _say_allowance(allowance, material.cost.total)
        folder = create_run(
            out,
            experiment,
            card,
            teacher_url=teacher,
            key_identity=key_identity(server) if is_ours else None,
            pin=pin,
            allowance=allowance,
            keep=lambda path: _keep(path, material, None if is_ours else Path(teacher)),
        )
    _finish(folder, material, teacher, device, as_json=as_json, strict_pool=strict_pool)


def resume(
    directory: RunDir,
    teacher: TeacherUrl = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    strict_pool: StrictPool = False,
) -> None:
    """Go on with a run that was stopped, from what is on the disk; a finished run is only measured again.

    Where answers.sqlite is lost or damaged, the answers are fetched again, at no charge; not so from a teacher that
    keeps no count and would charge them again.

    --teacher with a teacher's file takes that file's max_queries and max_cost from now on. What was in flight when
    the run was stopped is asked for again; of a teacher that keeps no count it stays counted too (`distill settle`).

    The key is read from DISTILL_API_KEY and must be the one that the run began with.
    """
    from distill_client.material import Material

    require_device(device)
    folder = open_run(directory, mends=True)
    material, target = Material.of_run(folder), teacher or folder.teacher_target
    _finish(folder, material, target, device, as_json=as_json, strict_pool=strict_pool)


def _keep(path: Path, material: "Material", teacher_file: Path | None) -> None:
    """Write into a new run's folder what a resumption starts from."""
    material.keep(path)
    if teacher_file is not None:
        write_text(path / TEACHER_FILE, self_contained_text(teacher_file))


def _say_allowance(allowance: "Allowance", images: int) -> None:
    from distill_client.report.table import describe_allowance

    told = "; ".join(f"{what}: {value}" for what, value in describe_allowance(allowance, images).items())
    say(f"the client counts itself what it asks for: {images:,} images planned; {told}")


def _paid_once(folder: RunFolder) -> str:
    if folder.counts_for_itself:
        return "only what was in flight is asked for twice, and is listed by `distill settle`"
    return "nothing is paid for twice"


def _require_fingerprint(text: str | None) -> None:
    if text is not None and not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ConfigError(
            f"--signing-key is {text[:80]!r}; allowed is a fingerprint of 64 hexadecimal digits (0-9a-f)"
        )


def _finish(
    folder: RunFolder, material: "Material", teacher_url: str, device: str, *, as_json: bool, strict_pool: bool
) -> None:
    from distill_client import pipeline
    from distill_client.report.progress import RunProgress

    torch_device = require_device(device)
    try:
        with folder, connected(teacher_url, folder.config, folder.record.teacher.version) as server:
            if folder.set_aside:
                say(f"{folder.set_aside}. The answers are fetched again, at no charge")
            if folder.record.pin is None and server.signing_keys() is None:
                say(UNSIGNED)
            asked = on_account_of(folder, server, teacher_url)
            with RunProgress(err, allowance_of(server)) as progress:
                summary = pipeline.run(folder, material, asked, progress, torch_device, strict_pool=strict_pool)
            draw(folder, summary)
    except KeyboardInterrupt:
        command = resume_command(folder.path)
        typer.echo(f"\ndistill: stopped; `{command}` goes on, {_paid_once(folder)}", err=True)
        # Requests in flight may wait for a slow teacher. Everything durable is on the disk: leave without them.
        os._exit(130)
    except DistillError as error:
        if error.exit_code in (3, 4, PoolUnfit.exit_code):
            typer.echo(f"the run can go on later: {resume_command(folder.path)}", err=True)
        raise
    print_summary(summary, folder.path, as_json=as_json)
    if not summary["audit"]["equal"]:
        raise AuditMismatch("; ".join(summary["audit"]["faults"]) or "the three counts differ")
