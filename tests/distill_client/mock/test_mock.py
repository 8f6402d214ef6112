"""The mock teacher: every shape is answered as its adapter reads it, every fault does and charges what it says."""

import dataclasses
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_client.mock.answering import HashAnswers
from distill_client.mock.counting import Counts
from distill_client.mock.faults import FAULTS, Faults
from distill_client.mock.serving import Mock, MockServer, teacher_toml
from distill_client.mock.shapes import SHAPES, Mocked
from distill_client.teachers.adapters.kinds import load_teacher_file, make_adapter
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.transport import Transport
from shared.wire.images import image_digests

Start = Callable[..., MockServer]
IMAGES = np.random.default_rng(5).integers(0, 256, (2, 28, 28, 1), np.uint8)


@pytest.fixture
def start() -> Iterator[Start]:
    servers: list[MockServer] = []

    def begin(shape: str, faults: str = "") -> MockServer:
        mocked = Mocked(tuple("0123456789"), (28, 28, 1), 2)
        mock = Mock(
            SHAPES[shape](mocked), HashAnswers(10), Faults.parse(faults, 1), Counts(honours_idempotency=False)
        )
        server = MockServer(("127.0.0.1", 0), dataclasses.replace(mock, slow_s=0.05))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server: MockServer, folder: Path, images: int) -> Any:
    """One call through the adapter that the mock's own file describes."""
    path = folder / "teacher.toml"
    path.write_text(teacher_toml(server.mock, server.url))
    file = load_teacher_file(path)
    adapter = make_adapter(file)
    with closing(Transport.to(file.url, headers={}, deadline_s=1)) as transport:
        if (look := adapter.first_look()) is not None:
            adapter.read_first_look(transport.send(look))
        return adapter.read(transport.send(adapter.request(IMAGES[:images], "a" * 64)), images)


def counts(server: MockServer) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/mock/counts", timeout=5) as reply:  # noqa: S310 - our own
        content: dict[str, Any] = json.loads(reply.read())
        return content


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_shape_is_read_by_its_adapter(start: Start, tmp_path: Path, shape: str) -> None:
    server = start(shape)
    answer = ask(server, tmp_path, 1)
    expected_nk = HashAnswers(10)(IMAGES[:1])
    if answer.values.ndim == 1:
        assert answer.values.tolist() == expected_nk.argmax(axis=1).tolist()
    else:
        known = ~np.isnan(answer.values)
        assert known.sum() >= 5
        assert np.abs(answer.values[known] - expected_nk[known]).max() < 1e-4
    assert counts(server)["charged"] == {image_digests(IMAGES[:1])[0].hex(): 1}


@pytest.mark.parametrize(
    ("fault", "charged", "pressure", "is_paid"),
    [
        ("throttle", "no", "throttled", False),
        ("overload", "no", "overloaded", False),
        ("timeouts-before-charge", "unknown", "", False),
        ("timeouts-after-charge", "unknown", "", True),
        ("cut", "unknown", "", True),
    ],
)
def test_what_passes(start: Start, tmp_path: Path, fault: str, charged: str, pressure: str, is_paid: bool) -> None:
    server = start("vision", f"{fault}=1")
    with pytest.raises(Retryable) as caught:
        ask(server, tmp_path, 2)
    assert (caught.value.charged, caught.value.pressure) == (charged, pressure)
    found = counts(server)
    assert found["faults"] == {fault: 1}
    assert found["charged_images"] == (2 if is_paid else 0)


def test_garbage_is_paid_and_no_answer(start: Start, tmp_path: Path) -> None:
    server = start("vision", "garbage=1")
    with pytest.raises(Exception, match="JSON") as caught:
        ask(server, tmp_path, 2)
    assert getattr(caught.value, "charged", "") == "unknown"
    assert counts(server)["charged_images"] == 2


def test_slow_answers_are_answers(start: Start, tmp_path: Path) -> None:
    server = start("vision", "slow=1")
    assert len(ask(server, tmp_path, 2).values) == 2
    assert counts(server)["faults"] == {"slow": 1}


def test_partial_answers_name_the_images_and_charge_the_rest(start: Start, tmp_path: Path) -> None:
    server = start("vision", "partial=1")
    answer = ask(server, tmp_path, 2)
    assert answer.failures
    assert {failure.charged for failure in answer.failures.values()} == {"no"}
    assert counts(server)["charged_images"] == 2 - len(answer.failures)


def test_every_fault_is_tried_here() -> None:
    tried = {
        "throttle",
        "overload",
        "timeouts-before-charge",
        "timeouts-after-charge",
        "cut",
        "garbage",
        "slow",
        "partial",
    }
    assert tried == set(FAULTS)
