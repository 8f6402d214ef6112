"""The `teacher` command: make a teacher, issue keys, serve. What it prints with --json is one JSON object."""

import typer

from shared.wire.error_codes import ErrorCode
from teacher_server.cli import audit, bundles, keys, ledger, serving, training, usage
from teacher_server.errors import OperatorError, Refusal

app = typer.Typer(
    help="Host a private image classifier and sell its answers, image by image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(serving.serve)
app.command()(serving.reload)
app.command()(training.train)
app.command()(training.predict)
app.command()(usage.usage)
app.add_typer(bundles.app, name="bundle")
app.add_typer(keys.app, name="keys")
app.add_typer(ledger.app, name="ledger")
app.add_typer(audit.app, name="audit")


def main() -> None:
    """Entry point: expected failures are one line on stderr and exit code 2, never a traceback."""
    try:
        app()
    except OperatorError as error:
        typer.echo(f"teacher: {error}", err=True)
        raise SystemExit(2) from None
    except OSError as error:  # standard output on a full disk; 1 would mean that a ledger is not sound
        typer.echo(f"teacher: {error}", err=True)
        raise SystemExit(2) from None
    except Refusal as refusal:
        cause = refusal.__cause__  # SQLAlchemy's own text has several lines; the driver's error has one
        typer.echo(f"teacher: {_for_the_owner(refusal)} ({getattr(cause, 'orig', cause)})", err=True)
        raise SystemExit(2) from None


def _for_the_owner(refusal: Refusal) -> str:
    """What a refusal says, without the advice to clients about their Idempotency-Key."""
    if refusal.code != ErrorCode.LEDGER_UNAVAILABLE:
        return refusal.detail
    if refusal.members.get("charged") == "unknown":
        return "the ledger did not say whether it kept the change; look before doing it again"
    return "the ledger cannot be used now, nothing was changed"
