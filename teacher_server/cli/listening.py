"""Where and how the server listens: its socket, TLS, how many connections it can hold, and its end by SIGTERM."""

import logging
import resource
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from teacher_server.errors import OperatorError
from teacher_server.settings import TeacherSettings

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

FILES_BESIDE_CONNECTIONS = 256  # the ledger's connections, weights, logs, libraries
_log = logging.getLogger("teacher_server")


def server_config(application: "ASGIApp", settings: TeacherSettings, tls: ssl.SSLContext | None) -> "uvicorn.Config":
    """How uvicorn serves ``application`` by these settings."""
    import uvicorn

    from teacher_server.connections import bound_tls, bounded_protocol
    from teacher_server.http_protocol import ConnectionLimits

    limits = ConnectionLimits(
        connections_max=_require_files(settings.connections_max),
        head_timeout_s=settings.head_timeout_s,
        send_timeout_s=settings.body_timeout_s,
    )
    if tls:
        bound_tls(limits)
    return uvicorn.Config(
        application,
        loop="asyncio" if tls else "auto",
        http=bounded_protocol(limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        ssl_context_factory=(lambda *_: tls) if tls else None,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OperatorError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise OperatorError(f"cannot listen on host {host!r}, port {port}: {error}") from error


def listening_url(settings: TeacherSettings, listener: socket.socket) -> str:
    """The address that clients are told."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls_certificate else 'http'}://{host}:{listener.getsockname()[1]}"


def tls_context(settings: TeacherSettings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the certificate of these settings; None without one.

    Raises OperatorError for one without the other, and for files that cannot be read, are no PEM, are encrypted or do
    not belong together.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        if certificate or key:
            raise OperatorError(
                "tls_certificate and tls_key are given together or not at all; one of them is missing"
            )
        return None
    for name, file in (("tls_certificate", certificate), ("tls_key", key)):
        try:
            file.read_bytes()
        except OSError as error:
            raise OperatorError(f"{name} is {str(file)!r}, which cannot be read: {error.strerror}") from error

    def ask_nobody() -> NoReturn:  # OpenSSL would ask the terminal
        raise OperatorError(f"tls_key is {str(key)!r}, which is encrypted; allowed is a key without a passphrase")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=ask_nobody)
    except (ssl.SSLError, ValueError) as error:
        raise OperatorError(
            f"tls_certificate is {str(certificate)!r} and tls_key {str(key)!r}, which are not a certificate and its "
            f"private key in PEM: {getattr(error, 'reason', None) or error}"
        ) from error
    return context


@contextmanager
def ending_on_sigterm(server: "uvicorn.Server") -> Iterator[list[int]]:
    """Let ``server`` finish what it is doing when SIGTERM comes; gives a list that is not empty once it came.

    uvicorn does so too while it runs, and then raises the signal again, which would end the process before it has
    tidied up. No exception is raised here: at the wrong moment, as in an import, Python would swallow it.
    """
    came: list[int] = []

    def end(number: int, _frame: object) -> None:
        came.append(number)
        server.should_exit = True

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def die_of_sigterm() -> None:
    """End as whoever sent the signal expects: killed by it.

    The first process of a container cannot be; it goes on to end with 0, after which nobody starts it again.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)


def _require_files(connections_max: int) -> int:
    """Have the operating system allow as many open files; returns how many connections there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + FILES_BESIDE_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            connections_max = max(1, soft - FILES_BESIDE_CONNECTIONS)
            _log.warning("this process may open %d files: %d connections at most", soft, connections_max)
    return connections_max
