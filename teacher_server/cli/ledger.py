"""`teacher ledger`: look after the ledger file."""

import typer

from teacher_server.cli.options import AsJson, Ledger
from teacher_server.cli.reporting import print_report
from teacher_server.ledger.database import migrate

app = typer.Typer(help="Look after the ledger file.", no_args_is_help=True)


@app.command("migrate")
def migrate_ledger(ledger: Ledger, as_json: AsJson = False) -> None:
    """Bring a ledger's schema to this program's version."""
    revision = migrate(ledger)
    print_report({"ledger": ledger, "schema": revision}, f"{ledger}: schema {revision}", as_json=as_json)
