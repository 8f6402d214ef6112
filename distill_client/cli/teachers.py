"""`distill teacher ...`: looking at a teacher before anything is bought, and having one to try clients on."""

import typer

from distill_client.cli import checking, mapping, mocking

app = typer.Typer(help="Look at a teacher before anything is bought, or have a mock one.", no_args_is_help=True)
app.command("map")(mapping.map_labels)
app.command()(checking.check)
app.command()(mocking.mock)
