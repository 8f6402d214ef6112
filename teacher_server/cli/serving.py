"""`teacher serve` and `teacher reload`."""

import json
import logging
import signal
import ssl
from pathlib import Path
from typing import Annotated

import typer

from teacher_server.cli.listening import (
    die_of_sigterm,
    ending_on_sigterm,
    listen,
    listening_url,
    server_config,
    tls_context,
)
from teacher_server.cli.options import (
    LEDGER_HELP,
    AsJson,
    Ledger,
    TrustNetwork,
    keep_passwords_off_the_command_line,
)
from teacher_server.cli.reporting import operator_mistakes, print_report
from teacher_server.errors import OperatorError
from teacher_server.ledger.databases.server_lock import hold_for_server
from teacher_server.settings import TeacherSettings


def serve(
    bundle: Annotated[
        list[Path] | None,
        typer.Option(
            help="a teacher bundle folder, or a folder of some; repeat. Of two versions the last is default"
        ),
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(help=LEDGER_HELP, callback=keep_passwords_off_the_command_line)
    ] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on (default: 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="port; 0 takes a free one (default: 8000)")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (default: cpu)")] = None,
    trust_network: TrustNetwork = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate and its chain: serve https, not http")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its private key")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve teachers over HTTP until stopped. Every setting can also be given as TEACHER_NAME in the environment.

    Prints the address once it accepts requests. SIGHUP, or `teacher reload`, reads the bundles again.
    """
    settings = TeacherSettings.load(
        bundles=tuple(bundle) if bundle else None,
        ledger=ledger,
        host=host,
        port=port,
        device=device,
        trusted_networks=tuple(trust_network) if trust_network else None,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
    )
    _serve(settings, tls_context(settings), as_json=as_json)


def reload(
    ledger: Ledger,
    timeout_s: Annotated[float, typer.Option(help="how long to wait for the server")] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Make the running server read its bundles again, and wait until it has; no request is dropped.

    A bundle that cannot be served changes nothing: the server goes on with what it had, and the reason is printed.
    """
    from teacher_server.reloading import ask_for_reload, describe

    outcome = ask_for_reload(ledger, timeout_s=timeout_s)
    if not outcome.is_done and not as_json:
        raise OperatorError(f"not reloaded, the server goes on with what it had: {outcome.message}")
    report = {"reloaded": outcome.is_done, "versions": outcome.teachers, "message": outcome.message}
    print_report(report, f"reloaded: {describe(outcome.teachers)}", as_json=as_json)
    if not outcome.is_done:
        raise typer.Exit(2)


def _serve(settings: TeacherSettings, tls: ssl.SSLContext | None, *, as_json: bool) -> None:
    import uvicorn

    from teacher_server.app import create_app, require_versions_unchanged
    from teacher_server.reloading import Reloader, describe, forget_earlier_server
    from teacher_server.teachers.teacher import Teacher, load_teachers

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of what callers send

    def load(served: list[Teacher]) -> list[Teacher]:
        return load_teachers(
            settings.bundles, device=settings.device, trusted_networks=settings.trusted_networks, served=served
        )

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    with hold_for_server(settings.ledger), listen(settings.host, settings.port) as listener:
        forget_earlier_server(settings.ledger)
        with operator_mistakes():
            teachers = load([])
        application = create_app(settings, teachers)
        catalogue = application.state.server.catalogue

        def reload_bundles(served: list[Teacher]) -> list[Teacher]:
            found = load(served)
            require_versions_unchanged(application.state.server.ledger, found)
            return found

        server = uvicorn.Server(server_config(application, settings, tls))
        with ending_on_sigterm(server) as sigterm, Reloader(settings.ledger, catalogue, reload_bundles):
            url = listening_url(settings, listener)
            served = [(teacher.name, teacher.version) for teacher in catalogue.all()]
            names = sorted({name for name, _ in served})
            # The socket already listens: who connects from now on is answered as soon as the loop below runs.
            typer.echo(
                json.dumps({"url": url, "teachers": names, "versions": served})
                if as_json
                else f"serving {describe(served)} at {url}"
            )
            server.run(sockets=[listener])
    if sigterm:
        die_of_sigterm()
