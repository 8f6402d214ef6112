"""`teacher serve`."""

import json
import logging
import socket
from pathlib import Path
from typing import Annotated

import typer

from teacher_server.cli.options import AsJson
from teacher_server.cli.reporting import operator_mistakes
from teacher_server.errors import OperatorError
from teacher_server.ledger.database import hold_for_server
from teacher_server.settings import TeacherSettings


def serve(
    bundle: Annotated[list[Path] | None, typer.Option(help="a teacher bundle folder; repeat for several")] = None,
    ledger: Annotated[str | None, typer.Option(help="where the ledger is: sqlite:///FILE")] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on (default: 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="port; 0 takes a free one (default: 8000)")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (default: cpu)")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve teachers over HTTP until stopped. Every setting can also be given as TEACHER_NAME in the environment.

    Prints the address once it accepts requests.
    """
    import uvicorn

    from teacher_server.app import create_app
    from teacher_server.teachers.teacher import load_teacher

    settings = TeacherSettings.load(
        bundles=tuple(bundle) if bundle else None, ledger=ledger, host=host, port=port, device=device
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with hold_for_server(settings.ledger), _listen(settings.host, settings.port) as listener:
        with operator_mistakes():
            teachers = [load_teacher(folder, device=settings.device) for folder in settings.bundles]
        application = create_app(settings, teachers)
        url = f"http://{_url_host(settings.host)}:{listener.getsockname()[1]}"
        names = sorted(application.state.server.teachers)
        # The socket already listens: who connects from now on is answered as soon as the loop below runs.
        typer.echo(json.dumps({"url": url, "teachers": names}) if as_json else f"serving {', '.join(names)} at {url}")
        config = uvicorn.Config(application, log_config=None, access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise OperatorError(f"cannot listen on host {host!r}, port {port}: {error}") from error


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
