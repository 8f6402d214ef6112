"""The composition root: what may be put together, and that it is taken apart again."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError
from starlette.testclient import TestClient

from shared.wire.contracts import HEADER_VERSION
from teacher_server.app import create_app
from teacher_server.errors import OperatorError
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import create_key
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.manifest import Version
from tests.teacher_server.support import PROBABILITIES, Holder, NumbersClassifier, file_of, new_key, numbers_teacher


@pytest.fixture
def settings(ledger_url: str) -> TeacherSettings:
    return TeacherSettings.load(bundles=(Path("unused"),), ledger=ledger_url)


def test_two_teachers_of_one_name_and_version_cannot_be_served(settings: TeacherSettings) -> None:
    teachers = [numbers_teacher(NumbersClassifier(), version="2"), numbers_teacher(NumbersClassifier(), version="2")]
    with pytest.raises(OperatorError, match="two bundles are teacher 'numbers' version '2'"):
        create_app(settings, teachers)


def test_a_ledger_that_cannot_be_opened_stops_the_start(settings: TeacherSettings, ledger_url: str) -> None:
    file_of(ledger_url).write_bytes(b"something else" * 100)
    with pytest.raises(OperatorError, match="cannot be opened"):
        create_app(settings, [numbers_teacher(NumbersClassifier())])


def test_the_ledger_is_closed_when_the_server_ends(
    settings: TeacherSettings, ledger_url: str, database: Database
) -> None:
    new_key(database)
    database.close()
    with TestClient(create_app(settings, [numbers_teacher(NumbersClassifier())])) as client:
        assert client.get("/readyz").status_code == 200
    left = sorted(file.name for file in file_of(ledger_url).parent.iterdir())
    assert left == ["ledger.db", "ledger.db.signing-key.pem"], "no journal is left"


@pytest.mark.parametrize("version", ["β", "1.0–rc", "1\n2", " 1", "1 ", "", "x" * 65, "1\x7f"])
def test_a_version_that_no_header_carries_is_no_version(version: str) -> None:
    """The answer would be charged, and then its headers could not be written."""
    with pytest.raises(ValidationError):
        TypeAdapter(Version).validate_python(version)


@pytest.mark.parametrize("version", ["1", "2026-01-01", '1.0 (beta), "final"', "x" * 64])
def test_versions_reach_the_holder(settings: TeacherSettings, database: Database, version: str) -> None:
    assert TypeAdapter(Version).validate_python(version) == version
    _, secret = create_key(database, name="ada", budget=5, disclosure=PROBABILITIES, expires_at=None)
    with TestClient(create_app(settings, [numbers_teacher(NumbersClassifier(), version=version)])) as client:
        response = Holder(client, secret).ask([1])
    assert response.headers[HEADER_VERSION] == response.json()["version"] == version


def test_a_version_keeps_its_meaning_across_restarts(settings: TeacherSettings, database: Database) -> None:
    first = replace(numbers_teacher(NumbersClassifier()), content_digest="a" * 64)
    other = replace(first, content_digest="b" * 64)
    _, secret = create_key(database, name="ada", budget=9, disclosure=PROBABILITIES, expires_at=None)
    with TestClient(create_app(settings, [other])):
        """Nothing was answered with it, so the owner may think again."""
    with TestClient(create_app(settings, [first])) as client:
        Holder(client, secret).buy([1])
    with pytest.raises(OperatorError, match="'numbers': version is '1', under which this ledger holds answers"):
        create_app(settings, [other])
    with TestClient(create_app(settings, [first, replace(other, version="2")])) as client:
        assert Holder(client, secret).buy([2]).version == "2"


def test_a_server_that_cannot_sign_says_so_at_the_start(
    settings: TeacherSettings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    away = database.signer.file.rename(database.signer.file.with_suffix(".away"))
    with TestClient(create_app(settings, [numbers_teacher(NumbersClassifier())])) as client:
        assert "not ready, and nothing is answered until it is: signing key" in caplog.text
        assert client.get("/readyz").status_code == 503
        away.rename(database.signer.file)
        assert client.get("/readyz").status_code == 200
