"""A server that is killed between a charge and the telling of it tells it after its restart."""

from pathlib import Path

from tests.ledger_places import LedgerPlace
from tests.reliability.demanding_client import DemandingClient, Wish
from tests.reliability.processes import ForkServer, Server
from tests.teacher_server.receiver import SECRET_PATH, receiving, wait_until

SIGNING = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_killed_server_tells_what_it_owes_after_its_restart(
    teacher_forks: ForkServer, place: LedgerPlace, tmp_path: Path
) -> None:
    secret = place.new_secret("ada", budget=4)
    with receiving(pause_s=3600) as gone:  # it gets the first message and does not answer
        server = Server(
            teacher_forks,
            tmp_path,
            **place.env,
            TEACHER_ALERT_WEBHOOK=gone.url,
            TEACHER_ALERT_WEBHOOK_SECRET=SIGNING,
        )
        server.start()
        client = DemandingClient(server.url, secret)
        with client.connect() as connection:
            client.insist(connection, Wish("three", (1, 2, 3)))
        assert list(client.received) == ["three"], "the answer did not wait for the owner"
        wait_until(lambda: len(gone.messages) == 1)
        assert server.kill()
        gone.pause_s = 0.0
        first = gone.messages[0]
        server.start()
        try:
            wait_until(lambda: len(gone.messages) == 2)
            wait_until(lambda: alerted(place) == 50)
        finally:
            server.stop()
    second = gone.messages[1]
    assert second.headers["Webhook-Id"] == first.headers["Webhook-Id"]
    assert (second.data["passed"], second.data["spent"]) == ([50], 3)
    assert second.headers["Webhook-Signature"].startswith("v1,")
    log = server.text()
    assert log.count("budget: key ada has spent 3 of 4 images") == 2
    for word in (SECRET_PATH, "s3cr3t", SIGNING, secret):
        assert word not in log


def alerted(place: LedgerPlace) -> int:
    with place.open() as database, database.reading() as connection:
        percent: int = connection.exec_driver_sql("SELECT alerted_percent FROM keys").scalar_one()
        return percent
