"""The `teacher` command: keys and ledger in process, exit codes and messages as a shell sees them."""

import json
import re
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared.wire.error_codes import ErrorCode
from teacher_server.cli import app
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.databases.server_lock import hold_for_server
from teacher_server.ledger.keys.authentication import authenticate
from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.opening import open_database
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.support import file_of, history, require_sound

runner = CliRunner()


def run(*arguments: str) -> str:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def run_json(*arguments: str) -> Any:
    text = run(*arguments, "--json")
    assert text.endswith("\n")
    assert text.count("\n") == 1, "one line, one object"
    return json.loads(text)


def mistake(*arguments: str) -> str:
    result = runner.invoke(app, arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, OperatorError), result.exception
    return str(result.exception)


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from teacher_server.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


# --- keys ---------------------------------------------------------------------------------------------------------


def test_create_prints_one_object_with_the_secret(ledger_url: str) -> None:
    report = run_json(
        "keys", "create", "--ledger", ledger_url, "--name", "ada", "--budget", "7", "--disclosure", "top-k:3",
        "--expires", "2999-12-31",
    )  # fmt: skip
    secret = report.pop("key")
    created = report.pop("created")
    assert report == {
        "name": "ada",
        "granted": 7,
        "spent": 0,
        "remaining": 7,
        "images_per_day": None,
        "images_per_second": None,
        "disclosure": "top-k:3",
        "status": "active",
        "expires": "3000-01-01T00:00:00.000000+00:00",
        "revoked": None,
    }
    with closing(open_database(ledger_url, create=True)) as database:
        key = authenticate(database, secret)
        assert (key.name, key.created_at) == ("ada", created)
        assert str(key.disclosure) == "top-k:3"


def test_create_without_json_prints_the_secret_alone(ledger_url: str) -> None:
    result = runner.invoke(app, ["keys", "create", "--ledger", ledger_url, "--name", "ada", "--budget", "7"])
    assert re.fullmatch(r"tk-[0-9a-f]{12}-[A-Za-z0-9_-]{43}\n", result.stdout)
    assert "Shown once" in result.stderr
    assert result.stdout.strip() not in result.stderr


def test_list_shows_every_key_and_no_secret(ledger_url: str) -> None:
    secrets = [
        run_json("keys", "create", "--ledger", ledger_url, "--name", name, "--budget", "7")["key"]
        for name in ("ada", "bob")
    ]
    run("keys", "revoke", "--ledger", ledger_url, "--name", "bob")
    listed = run_json("keys", "list", "--ledger", ledger_url)["keys"]
    assert [(key["name"], key["status"]) for key in listed] == [("ada", "active"), ("bob", "revoked")]
    table = run("keys", "list", "--ledger", ledger_url)
    assert "ada" in table
    assert "revoked" in table
    for text in (json.dumps(listed), table):
        assert "key" not in json.dumps(list(listed[0]))
        assert all(secret not in text and secret.split("-", 2)[2] not in text for secret in secrets)


def test_a_list_on_a_narrow_terminal_cuts_no_heading(ledger_url: str) -> None:
    words = ("--ledger", ledger_url, "--name", "distiller", "--budget", "10000000", "--expires", "2099-12-31")
    run("keys", "create", *words, "--disclosure", "top-k:3", "--images-per-day", "100000", "--images-per-second", "9")
    done = shell("keys", "list", "--ledger", ledger_url, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    head = done.stdout.splitlines()[0]
    assert " ".join(head.split()) == "name granted spent remaining per day per s disclosure status expires"
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert done.stdout.split()[11:18] == ["distiller", "10000000", "0", "10000000", "100000", "9", "top-k:3"]
    assert "2100-01-01" in done.stdout


def test_a_key_may_be_made_to_last(ledger_url: str) -> None:
    words = ("--ledger", ledger_url, "--name", "ada", "--budget", "1", "--expires")
    assert run_json("keys", "create", *words, "never")["expires"] is None
    assert "expires is ''" in mistake("keys", "create", *words, "")


def test_grant_and_revoke_while_a_server_has_the_ledger(database: Database, ledger_url: str) -> None:
    with hold_for_server(ledger_url):
        secret = run_json("keys", "create", "--ledger", ledger_url, "--name", "ada", "--budget", "2")["key"]
        key = authenticate(database, secret)
        charge(Ledger(database), key, "a", 2)
        assert run_json("keys", "grant", "--ledger", ledger_url, "--name", "ada", "5")["remaining"] == 5
        assert run("keys", "grant", "--ledger", ledger_url, "--name", "ada", "1") == "ada: granted 8, spent 2\n"
        charge(Ledger(database), key, "b", 6)
        revoked = run_json("keys", "revoke", "--ledger", ledger_url, "--name", "ada")
        assert revoked["status"] == "revoked"
        with pytest.raises(Refusal) as refusal:
            authenticate(database, secret)
        assert refusal.value.code is ErrorCode.UNAUTHENTICATED
        assert run_json("keys", "revoke", "--ledger", ledger_url, "--name", "ada") == revoked
    assert [event.kind for event in history(database, key)] == [
        "create", "answer", "grant", "grant", "answer", "revoke", "refuse",
    ]  # fmt: skip
    require_sound(database)


def test_the_ledger_may_stand_in_the_environment(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_LEDGER", ledger_url)
    run("keys", "create", "--name", "ada", "--budget", "2")
    assert [key["name"] for key in run_json("keys", "list")["keys"]] == ["ada"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--budget", "-1"], "budget is -1"),
        (["--budget", str(2**53)], f"budget is {2**53}"),
        (["--disclosure", "everything"], "disclosure is 'everything'; allowed are probabilities, top-k:K"),
        (["--disclosure", "top-k:0"], "disclosure is 'top-k:0'"),
        (["--expires", "tomorrow"], "expires is 'tomorrow'; allowed are 2026-12-31"),
        (["--expires", "2020-01-01"], "in the past"),
        (["--expires", "2999-12-31T12:00:00"], "offset"),
        (["--name", "no spaces"], "name is 'no spaces'"),
        (["--ledger", "ledger.db"], "ledger is 'ledger.db'; allowed is sqlite:///FILE"),
    ],
)
def test_bad_options_are_named_and_make_no_key(ledger_url: str, options: list[str], says: str) -> None:
    good = ["--ledger", ledger_url, "--name", "ada", "--budget", "1"]
    assert says in mistake("keys", "create", *good, *options)
    with closing(open_database(ledger_url, create=True)) as database:
        assert list_keys(database) == []


@pytest.mark.parametrize("images", ["0", "-5", str(2**60)])
def test_senseless_grants_change_nothing(ledger_url: str, images: str) -> None:
    run("keys", "create", "--ledger", ledger_url, "--name", "ada", "--budget", "1")
    assert f"images is {images}" in mistake("keys", "grant", "--ledger", ledger_url, "--name", "ada", "--", images)
    assert "no such key" in mistake("keys", "grant", "--ledger", ledger_url, "--name", "bob", "1")
    assert run_json("keys", "list", "--ledger", ledger_url)["keys"][0]["granted"] == 1


def test_names_are_taken_once(ledger_url: str) -> None:
    arguments = ["keys", "create", "--ledger", ledger_url, "--name", "ada", "--budget", "1"]
    run(*arguments)
    assert "never reused" in mistake(*arguments)


def test_migrate_reports_the_schema(ledger_url: str) -> None:
    assert "no such file" in mistake("ledger", "migrate", "--ledger", ledger_url)
    run("ledger", "init", "--ledger", ledger_url)
    assert run_json("ledger", "migrate", "--ledger", ledger_url) == {"ledger": ledger_url, "schema": "0003"}
    assert run("ledger", "migrate", "--ledger", ledger_url) == f"{ledger_url}: schema 0003\n"


# --- serve --------------------------------------------------------------------------------------------------------


def test_serve_refuses_an_unknown_environment_variable(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_PROT", "1")
    assert "TEACHER_PROT is not a setting" in mistake("serve", "--bundle", "b", "--ledger", ledger_url)


def test_serve_needs_a_bundle_and_a_ledger(ledger_url: str, tmp_path: Path) -> None:
    assert "bundles: Field required" in mistake("serve", "--ledger", ledger_url)
    assert "ledger: Field required" in mistake("serve", "--bundle", str(tmp_path))
    assert "teacher.toml" in mistake("serve", "--bundle", str(tmp_path), "--ledger", ledger_url, "--port", "0")


def test_serve_names_a_port_that_is_taken(ledger_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port}" in mistake("serve", "--bundle", str(tmp_path), "--ledger", ledger_url, "--port", port)
    assert "port" in mistake("serve", "--bundle", str(tmp_path), "--ledger", ledger_url, "--port", "70000")


def test_a_ledger_has_one_server(ledger_url: str, tmp_path: Path) -> None:
    with hold_for_server(ledger_url):
        for _ in range(2):
            with pytest.raises(OperatorError, match="another server"), hold_for_server(ledger_url):
                pass
        assert "another server" in mistake("serve", "--bundle", str(tmp_path), "--ledger", ledger_url)
    with hold_for_server(ledger_url):
        other_name = tmp_path / "link.db"
        other_name.symlink_to(file_of(ledger_url))
        with pytest.raises(OperatorError, match="another server"), hold_for_server(f"sqlite:///{other_name}"):
            pass
    with pytest.raises(OperatorError, match="allowed is sqlite:///FILE"), hold_for_server("ledger.db"):
        pass


# --- as a shell sees it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "ada", "--budget", "-1"], "teacher: budget is -1; allowed are 0 to 9007199254740991 images\n"),
        (["--name", "a\udcffb", "--budget", "1"], "teacher: name is 'a\\udcffb'; allowed are 1 to 64 letters, "
         "digits and . _ @ - (a letter or digit first)\n"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_code_2(ledger_url: str, arguments: list[str], says: str) -> None:
    ended = shell("keys", "create", "--ledger", ledger_url, *arguments, PYTHONUTF8="1")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", says)


def test_a_failing_ledger_is_one_line_and_exit_code_2(database: Database, ledger_url: str) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER broken BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'a broken disk'); END"
        )
    ended = shell("keys", "create", "--ledger", ledger_url, "--name", "ada", "--budget", "1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("teacher: the ledger cannot be used now, nothing was changed (")
    assert "a broken disk" in ended.stderr
    assert list_keys(database) == []


def test_success_is_one_object_and_exit_code_0(ledger_url: str) -> None:
    ended = shell("keys", "create", "--name", "ada", "--budget", "3", "--json", TEACHER_LEDGER=ledger_url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["granted"] == 3
    assert file_of(ledger_url).exists()


@pytest.mark.parametrize(
    "words", [["list"], ["grant", "--name", "a", "5"], ["revoke", "--name", "a"]], ids=lambda words: str(words[0])
)
def test_a_mistyped_ledger_is_named_and_not_made(words: list[str], tmp_path: Path) -> None:
    typo = tmp_path / "legder.db"
    result = CliRunner().invoke(app, ["keys", words[0], "--ledger", f"sqlite:///{typo}", *words[1:]])
    assert isinstance(result.exception, OperatorError)
    assert "there is no such file" in str(result.exception)
    assert not typo.exists()
