"""The `distill` command: init, plan, run, resume, audit, settle, evaluate, predict; and a look at teachers.

An experiment is a TOML file; flags only say where the teacher is, who it is, where the run goes and which device is
used. The key is read from DISTILL_API_KEY, never from a flag, where other users of the machine would see it.
"""

import os
from typing import NoReturn

import typer

from distill_client.cli import auditing, drafting, measuring, planning, running, teachers
from distill_client.cli.connecting import KEY_VARIABLE
from distill_client.errors import DistillError, RunStoreError

__all__ = ["EPILOG", "KEY_VARIABLE", "app", "main"]

EPILOG = (
    "Exit codes: 0 done, 2 configuration, 3 refused or budget exhausted, 4 teacher unavailable (resume later), "
    "5 answer or receipt outside the contract, 6 run folder, 7 the two sides' counts differ, 8 the teacher's version "
    "or the key's disclosure is another one now, 9 teacher unfit (`distill teacher "
    "check`), 10 pool unfit (`--strict-pool`; resume goes on), 130 stopped by Ctrl-C (resume)."
)

app = typer.Typer(
    help="Distil an image classifier that you can only query, and prove what it cost.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # else brackets are taken for styles, and every line of a text is broken by itself
)
app.command()(drafting.init)
app.command()(planning.plan)
app.command()(running.run)
app.command()(running.resume)
app.command()(auditing.audit)
app.command()(auditing.settle)
app.command()(measuring.evaluate)
app.command()(measuring.predict)
app.add_typer(teachers.app, name="teacher")


def main() -> None:
    """Entry point: an expected failure is one line on stderr and its exit code, never a traceback."""
    try:
        _run()
    except DistillError as error:
        _say_and_exit(str(error), error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written
        _say_and_exit(str(error), RunStoreError.exit_code)


def _run() -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from distill_client.student.lending import run_on_first_rank  # torch takes two seconds

        run_on_first_rank(app)
    else:
        app()


def _say_and_exit(message: str, exit_code: int) -> NoReturn:
    typer.echo("distill: " + "; ".join(line.strip() for line in message.splitlines()), err=True)
    raise SystemExit(exit_code) from None
