"""`distill teacher check`: whether a teacher is what a run needs, with at most 20 images."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from distill_client.checking.findings import Finding, findings, pool_finding
from distill_client.checking.probing import IMAGES, IMAGES_ASKED, Images, probe
from distill_client.cli.connecting import allowance_of, asked
from distill_client.cli.options import AsJson, out, say
from distill_client.config import PoolConfig
from distill_client.errors import BudgetExhausted, ConfigError, TeacherError, TeacherUnfit
from distill_client.pool import pool_input, read_candidates
from distill_client.teachers.adapters.http_teacher import HttpTeacher
from distill_client.teachers.manners.asking import Manners, announce_retries
from distill_client.teachers.native.teacher import NativeTeacher
from distill_client.teachers.paid.allowance import Allowance, money
from distill_client.teachers.paid.buying import images_per_request
from distill_client.teachers.paid.file import StoreFile
from distill_client.teachers.paid.own_ledger import OwnLedger, count_answer
from distill_client.teachers.protocol import Answer, Capabilities, Teacher
from shared.datasets import DATASET_NAMES

_DEADLINE_S = 60.0


def check(
    target: Annotated[str, typer.Argument(help="an address of ours, or a *.toml", show_default=False)],
    name: Annotated[str | None, typer.Option(help="which teacher of our server, for an address")] = None,
    images: Annotated[
        str | None, typer.Option(help="a folder of pictures, an .npz file or a data set; noise without it")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask whether to go on")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a teacher about eight images in several ways, and say whether it is fit for a run; exit code 9 if not.

    At most 20 images are asked for, and what they cost is said before. Four images go one a call, the first of them
    once more; then all eight together, as many a call as the teacher takes; then seven of them backwards. Looked at
    are the answers' shape and disclosure, whether every answer comes back to its image, whether it is the same again
    and in a batch, how long it takes, whether the teacher throttles, and whether the pictures fit its input; with
    --images also whether it is as sure of them as of what it was made for.

    A teacher that keeps no count is counted in a small ledger that is named; the key of ours is in DISTILL_API_KEY.
    """
    retries: list[str] = []
    announce_retries(retries.append)
    with asked(target, name, Manners(_DEADLINE_S, requests_in_flight=IMAGES)) as server:
        card = server.card()
        chosen, told = _choose(images, card)
        _require_budget(server)
        _confirm(card, allowance_of(server), yes=yes)
        with _counted(server, card) as (teacher, keep, where):
            try:
                seen = probe(teacher, card, chosen, images_per_request(IMAGES, card), keep)
            except BudgetExhausted as error:
                raise _unfinished(error, retries, where) from error
            budget = teacher.usage()
    found = [Finding("pictures", "good", told), *findings(card, seen, retries)]
    if images is not None:
        found.append(pool_finding(card, seen))
    is_fit = all(finding.verdict != "bad" for finding in found)
    if as_json:
        about = {"teacher": card.name, "version": card.version, "fit": is_fit, "images_asked": IMAGES_ASKED}
        told_all = [vars(finding) for finding in found]
        typer.echo(json.dumps({**about, "findings": told_all, "budget": budget.model_dump(), "ledger": where}))
    else:
        table = Table("", "verdict", "what was seen", title=f"{card.name}, version {card.version}")
        for finding in found:
            table.add_row(finding.what, finding.verdict, finding.told)
        out.print(table)
        typer.echo(f"{budget.remaining:,} images are left{f'; counted in {where}' if where else ''}")
        typer.echo("fit" if is_fit else "unfit")
    if not is_fit:
        raise TeacherUnfit("; ".join(f"{each.what}: {each.told}" for each in found if each.verdict == "bad"))


def _unfinished(error: BudgetExhausted, retries: Sequence[str], where: str) -> TeacherError:
    """What to say of a teacher that lost so many answers that asking again would exceed what was said."""
    if not where or not retries:
        return error
    return BudgetExhausted(
        f"not finished: answers were lost, and images that were asked for again count again, up to {IMAGES_ASKED}; "
        f"asked again {len(retries)} times, the first: {retries[0]}; counted in {where}",
        granted=error.granted,
        spent=error.spent,
    )


def _choose(source: str | None, card: Capabilities) -> tuple[Images, str]:
    """Eight different images at the teacher's input, and a sentence on where they are from. Raises ConfigError."""
    height, width, channels = card.input.height, card.input.width, card.input.channels
    if source is None:
        noise = np.random.default_rng(0).integers(0, 256, (IMAGES, height, width, channels), np.uint8)
        return (
            noise,
            f"{IMAGES} images of noise at {height}x{width}x{channels}; --images says whether yours fit",
        )
    key = "dataset" if source in DATASET_NAMES else "file" if source.endswith(".npz") else "folder"
    config = PoolConfig.model_validate({key: source, "images": IMAGES, "balanced": False})
    candidates = read_candidates(config, pool_input(config, card))
    count = len(candidates.images_nhwc)
    if candidates.images_nhwc.shape[1:] != (height, width, channels):
        size = "x".join(map(str, candidates.images_nhwc.shape[1:]))
        raise TeacherUnfit(f"--images: {source} has images of {size}, the teacher takes {height}x{width}x{channels}")
    if count < IMAGES:
        raise ConfigError(f"--images: {source} has {count} that can be used; {IMAGES} are needed")
    chosen = candidates.images_nhwc[np.linspace(0, count - 1, IMAGES).astype(int)]
    told = f"{count} images of {candidates.place} fit the input of {height}x{width}x{channels}"
    return np.ascontiguousarray(chosen), f"{told}; {len(candidates.skipped)} files were skipped"


def _require_budget(server: NativeTeacher | HttpTeacher) -> None:
    """Refuse, before anything is asked, what would break off half way and still be charged."""
    if isinstance(server, NativeTeacher):
        budget = server.usage()
        if budget.remaining < IMAGES_ASKED:
            left = f"{budget.remaining} of {budget.granted} are left; ask the owner for a grant"
            raise BudgetExhausted(
                f"a check asks for {IMAGES_ASKED} images, {left}", granted=budget.granted, spent=budget.spent
            )
    elif (allowed := server.allowance.granted()) < IMAGES_ASKED:
        raise ConfigError(
            f"a check asks for {IMAGES_ASKED} images, max_queries and max_cost of the teacher's file allow {allowed}"
        )


def _confirm(card: Capabilities, allowance: Allowance | None, *, yes: bool) -> None:
    """Say what it costs, and go on only with the person's word. Raises ConfigError without a terminal."""
    price = ""
    if allowance is not None and allowance.price_per_image:
        price = f", {money(allowance.cost_of(IMAGES_ASKED), allowance.currency)}"
    whose = "of the key's budget" if card.reports_usage else "which its owner may charge"
    say(f"teacher {card.name} will be asked for {IMAGES_ASKED} images{price}, {whose}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nothing was asked: give --yes where there is no terminal to say so")
    if not typer.confirm("go on?", err=True):
        raise ConfigError("nothing was asked")


@contextlib.contextmanager
def _counted(
    server: NativeTeacher | HttpTeacher, card: Capabilities
) -> Iterator[tuple[Teacher, Callable[[Answer], object], str]]:
    """The teacher to ask, who keeps its answers' count, and the file that holds it; none for one that counts."""
    if isinstance(server, NativeTeacher):
        yield server, lambda _: None, ""
        return
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    path = Path(f"teacher-check-{now}.sqlite").resolve()
    if path.exists():
        raise ConfigError(f"{path} is there already; try again in a second")
    file = StoreFile(path)
    try:
        ledger = OwnLedger(file)
        price, currency = server.allowance.price_per_image, server.allowance.currency
        ledger.begin("check", card, Allowance(IMAGES_ASKED, price, currency=currency))
        say(f"counted in {path}")
        yield server.counted_by(ledger), lambda answer: count_answer(ledger, answer), str(path)
    finally:
        file.close()
