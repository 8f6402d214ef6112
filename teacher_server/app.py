"""The composition root: settings and teachers in, an ASGI application out."""

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from shared.wire.error_codes import ERROR_KINDS
from teacher_server.admission import Admission
from teacher_server.alerting import BudgetAlerts
from teacher_server.api import health, huggingface, labels, signing_keys, teachers, usage
from teacher_server.api.context import Server
from teacher_server.api.documented import add_schemas
from teacher_server.api.open_inference import endpoints as open_inference
from teacher_server.api.open_inference.documents import InferRequest
from teacher_server.decoding import DecodingLimits
from teacher_server.errors import OperatorError, Refusal
from teacher_server.labelling import Labelling
from teacher_server.ledger.audit.consistency import Consistency
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.middleware import RequestIdMiddleware
from teacher_server.problems import add_problem_handlers
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.catalogue import Catalogue
from teacher_server.teachers.teacher import Teacher
from teacher_server.upkeep import Upkeep
from teacher_server.webhook_address import read_signing_secret
from teacher_server.webhooks import Webhook

_log = logging.getLogger("teacher_server")
_DESCRIPTION = """
A private image classifier that can only be queried: every image is charged to the key's budget, and every charge is
an event in the key's hash chain.

Errors are `application/problem+json` (RFC 9457) with `code` and `retryable`; under /v2 and /hf they are
`{"error": "..."}`, as those protocols have it, with the code in the header `X-Error-Code`:

| code | status | retryable | meaning |
|---|---|---|---|
"""


def create_app(settings: TeacherSettings, served: Iterable[Teacher]) -> FastAPI:
    """Build the application on the ledger that ``settings`` names. Raises OperatorError."""
    try:
        catalogue = Catalogue(served)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    database = open_database(
        settings.ledger, create=True, signing_key=settings.signing_key, lock_timeout_s=settings.ledger_timeout_s
    )
    database.share_commits()
    alerts = BudgetAlerts(database, _webhook(settings))
    ledger = Ledger(database, charged=alerts.charged)
    require_versions_unchanged(ledger, catalogue.all())
    _tell_if_not_ready(ledger)
    admission = Admission(
        requests_max=settings.requests_in_flight_max, requests_per_key_max=settings.requests_in_flight_per_key_max
    )
    limits = DecodingLimits(settings.images_per_request_max, settings.file_pixels_max, settings.request_pixels_max)
    consistency = Consistency(database)
    server = Server(
        settings=settings,
        catalogue=catalogue,
        ledger=ledger,
        admission=admission,
        labelling=Labelling(catalogue, ledger, admission, limits, classifying_threads=settings.classifying_threads),
        answering_threads=anyio.CapacityLimiter(settings.answering_threads),
        # JSON is many times larger once it is read; no more of it is at once than of decoded images.
        parsing_threads=anyio.CapacityLimiter(settings.classifying_threads),
        consistency=consistency,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with Upkeep(database, consistency, settings), alerts:
            yield
        ledger.close()

    app = FastAPIOffline(
        title="Teacher",
        description=_DESCRIPTION + _error_rows(),
        version="1",
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.server = server
    app.add_middleware(RequestIdMiddleware)
    add_problem_handlers(app)
    # The more particular addresses first.
    for module in (labels, teachers, usage, signing_keys, health, open_inference, huggingface):
        app.include_router(module.router)
    add_schemas(app, (InferRequest, huggingface.ClassificationRequest))
    return app


def _tell_if_not_ready(ledger: Ledger) -> None:
    """Say at the start what /readyz will say: a full disk, a signing key that is not there. It may pass."""
    try:
        ledger.check_writable()
    except Refusal as refusal:
        _log.error("not ready, and nothing is answered until it is: %s", refusal.__cause__)


def require_versions_unchanged(ledger: Ledger, teachers: Iterable[Teacher]) -> None:
    """Raise OperatorError for a version under which this ledger has charged answers of another bundle."""
    for teacher in teachers:
        earlier = ledger.last_teacher_digest(teacher.name, teacher.version)
        if earlier not in ("", teacher.content_digest):
            raise OperatorError(
                f"teacher {teacher.name!r}: version is {teacher.version!r}, under which this ledger holds answers of "
                "a bundle with other weights, classes or input; give what changed another version"
            )


def _webhook(settings: TeacherSettings) -> Webhook | None:
    url, secret = settings.alert_webhook, settings.alert_webhook_secret
    if url is None:
        return None
    return Webhook(url.get_secret_value(), read_signing_secret(secret.get_secret_value()) if secret else None)


def _error_rows() -> str:
    return "\n".join(
        f"| `{code}` | {kind.status} | {'yes' if kind.retryable else 'no'} | {kind.title} |"
        for code, kind in ERROR_KINDS.items()
    )
