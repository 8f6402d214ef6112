"""`teacher usage`: what was sold, by key, teacher and day."""

import csv
import json
import sys
from contextlib import closing
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from teacher_server.cli.options import AsJson, Ledger
from teacher_server.cli.reporting import out
from teacher_server.errors import OperatorError
from teacher_server.ledger.charging.usage_report import Sold, report_usage
from teacher_server.ledger.clock import parse_time
from teacher_server.ledger.lifecycle.opening import open_database


def usage(
    ledger: Ledger,
    by: Annotated[str, typer.Option(help="what to sum by: some of key,teacher,day, in this order")] = "key",
    key: Annotated[str | None, typer.Option(help="only this key")] = None,
    since: Annotated[str | None, typer.Option(help="2026-12-01 (UTC) or a full time")] = None,
    until: Annotated[str | None, typer.Option(help="2026-12-31 (to its end, UTC), or before a full time")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print comma-separated values instead of a table")] = False,
) -> None:
    """Show how many requests were answered and how many images charged; works while the server runs.

    The sums are those of the events that budgets are checked against.
    """
    if as_json and as_csv:
        raise OperatorError("--json and --csv are given; allowed is one of them")
    groups = [name.strip() for name in by.split(",")]
    with closing(open_database(ledger, create=False)) as database:
        sold = report_usage(
            database,
            by=groups,
            key_name=key,
            since=_time(since, "since", is_end=False),
            until=_time(until, "until", is_end=True),
        )
    if as_json:
        _print_json(groups, sold)
    elif as_csv:
        _print_csv(groups, sold)
    else:
        _print_table(groups, sold)


def _time(text: str | None, flag: str, *, is_end: bool) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text, is_end=is_end)
    except ValueError as error:
        raise OperatorError(f"{flag} is {text!r}; {error}") from error


def _print_json(groups: list[str], sold: list[Sold]) -> None:
    rows = [
        {**dict(zip(groups, each.group, strict=True)), "requests": each.requests, "images": each.images}
        for each in sold
    ]
    requests, images = _totals(sold)
    typer.echo(json.dumps({"by": groups, "rows": rows, "requests": requests, "images": images}))


def _print_csv(groups: list[str], sold: list[Sold]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*groups, "requests", "images"])
    writer.writerows([*each.group, each.requests, each.images] for each in sold)


def _print_table(groups: list[str], sold: list[Sold]) -> None:
    requests, images = _totals(sold)
    table = Table(show_footer=True)
    for number, name in enumerate(groups):
        table.add_column(name, footer="all" if number == 0 else "", overflow="fold")
    table.add_column("requests", footer=str(requests), justify="right", overflow="fold")
    table.add_column("images", footer=str(images), justify="right", overflow="fold")
    for each in sold:
        table.add_row(*each.group, str(each.requests), str(each.images))
    out.print(table)


def _totals(sold: list[Sold]) -> tuple[int, int]:
    return sum(each.requests for each in sold), sum(each.images for each in sold)
