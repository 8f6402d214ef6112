"""`teacher keys`: issue and manage API keys."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from shared.wire.contracts import Disclosure
from teacher_server.cli.options import AsJson, Ledger, SigningKeyFile
from teacher_server.cli.reporting import out, print_report, progress_out
from teacher_server.errors import OperatorError
from teacher_server.ledger import keys as ledger_keys
from teacher_server.ledger.opening import open_database

app = typer.Typer(help="Issue and manage API keys; works while the server runs.", no_args_is_help=True)


@app.command("create")
def create_key(
    ledger: Ledger,
    name: Annotated[str, typer.Option(help="who the key is for; never reused")],
    budget: Annotated[int, typer.Option(help="images it may buy answers for")],
    disclosure: Annotated[str, typer.Option(help="probabilities, top-k:K or label")] = "probabilities",
    expires: Annotated[str | None, typer.Option(help="2026-12-31 (to its end, UTC) or a full time")] = None,
    signing_key: SigningKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key and print its secret: the only time it is shown."""
    try:
        parsed = Disclosure.parse(disclosure)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    expires_at = ledger_keys.parse_expiry(expires) if expires else None
    key, secret = ledger_keys.create_key(
        open_database(ledger, create=True, signing_key=signing_key),
        name=name,
        budget=budget,
        disclosure=parsed,
        expires_at=expires_at,
    )
    print_report({"key": secret, **_key_report(key)}, secret, as_json=as_json)
    if not as_json:
        progress_out.print(f"key {name}: {budget} images, {parsed}. Shown once; only its hash is stored.")


@app.command("list")
def list_keys(ledger: Ledger, as_json: AsJson = False) -> None:
    """Show every key with its budget."""
    reports = [_key_report(key) for key in ledger_keys.list_keys(open_database(ledger, create=False))]
    if as_json:
        typer.echo(json.dumps({"keys": reports}))
        return
    table = Table(*(["name", "granted", "spent", "remaining", "disclosure", "status", "expires"]))
    for report in reports:
        table.add_row(*[_cell(report[column.header]) for column in table.columns if isinstance(column.header, str)])
    out.print(table)


@app.command("grant")
def grant(
    ledger: Ledger,
    name: Annotated[str, typer.Option(help="which key")],
    images: Annotated[int, typer.Argument(help="how many images to add to its budget")],
    signing_key: SigningKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Add to a key's budget."""
    key = ledger_keys.grant_images(
        open_database(ledger, create=False, signing_key=signing_key), name=name, images=images
    )
    print_report(_key_report(key), f"{name}: granted {key.granted}, spent {key.spent}", as_json=as_json)


@app.command("revoke")
def revoke(
    ledger: Ledger,
    name: Annotated[str, typer.Option(help="which key")],
    signing_key: SigningKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Take a key out of use for ever."""
    key = ledger_keys.revoke_key(open_database(ledger, create=False, signing_key=signing_key), name=name)
    print_report(_key_report(key), f"{name}: revoked at {key.revoked_at}", as_json=as_json)


def _key_report(key: ledger_keys.Key) -> dict[str, Any]:
    return {
        "name": key.name,
        **key.usage.model_dump(),
        "disclosure": str(key.disclosure),
        "status": key.status,
        "created": key.created_at,
        "expires": key.expires_at,
        "revoked": key.revoked_at,
    }


def _cell(value: object) -> str:
    return "" if value is None else str(value)
