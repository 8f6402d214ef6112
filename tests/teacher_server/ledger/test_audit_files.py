"""Exported histories and clients' receipts: what is written, and that both verifiers find whatever is done to it."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.wire.contracts import Event, SigningKey
from shared.wire.receipts import event_hash
from shared.wire.signatures import fingerprint, sign_event
from teacher_server.cli import main
from teacher_server.errors import OperatorError
from teacher_server.ledger.audit.auditing import audit_export, audit_ledger
from teacher_server.ledger.databases.whole_file import whole_file
from tests.ledger_places import LedgerPlace, sqlite_place
from tests.teacher_server.ledger.golden_history import EXPORT, KEYS, RECEIPTS, write_golden
from tests.teacher_server.ledger.histories import LAST, write_history
from tests.teacher_server.ledger.tampering import execute

PROJECT = Path(__file__).resolve().parents[3]
VERIFIER = PROJECT / "docs" / "verify_receipts.py"
Lines = list[dict[str, Any]]
FIRST_KEY = json.loads(KEYS.read_text())["keys"][0]["fingerprint"]

# Runs it where this project cannot be imported: no site, no editable installs, only the installed packages' folder.
ALONE = (
    "import importlib.util, runpy, sys; sys.path.append(sys.argv[1]); del sys.argv[:2]; "
    "assert not any(importlib.util.find_spec(ours) for ours in ('shared', 'teacher_server', 'distill_client')); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def stand_alone(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-c", ALONE, sysconfig.get_path("platlib"), VERIFIER, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


def read(file: Path) -> Lines:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, lines: Lines) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def seal(line: dict[str, Any]) -> None:
    line["event"]["hash"] = event_hash(Event.model_validate(line["event"]))


def seal_from(lines: Lines, index: int) -> None:
    for before, line in zip(lines[index - 1 :], lines[index:], strict=False):
        line["event"]["previous_hash"] = before["event"]["hash"] if "event" in before else "0" * 64
        seal(line)
    lines[0]["export"]["last_hash"] = lines[-1]["event"]["hash"]


def edit_and_seal(lines: Lines) -> None:
    lines[4]["event"]["teacher_digest"] = "ab" * 32
    seal_from(lines, 4)


def cut_with_header(lines: Lines) -> None:
    del lines[-1]
    lines[0]["export"] |= {"events": LAST - 1, "spent": 11, "last_hash": lines[-1]["event"]["hash"]}


def insert(lines: Lines) -> None:
    forged = json.loads(json.dumps(lines[-1]))
    forged["event"] |= {"sequence": LAST + 1, "previous_hash": lines[-1]["event"]["hash"], "kind": "refuse"}
    seal(forged)
    lines.append(forged)
    lines[0]["export"] |= {"events": LAST + 1, "last_hash": forged["event"]["hash"]}


def unsign(lines: Lines) -> None:
    lines[4] |= {"signing_key": "", "signature": ""}


def downgrade(lines: Lines) -> None:
    lines[-1] |= {"signing_key": "", "signature": ""}
    lines[-1]["event"] |= {"format": 1, "teacher_digest": "", "disclosure_digest": "", "detail": ""}
    seal_from(lines, len(lines) - 1)


def own_key(lines: Lines) -> None:
    """A key of the forger's own, put beside the others."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    key = SigningKey(fingerprint=fingerprint(public), public_key=public.public_bytes_raw().hex(), created_at="2027")
    lines[0]["export"]["signing_keys"].append(key.model_dump())
    lines[-1] |= {"signing_key": key.fingerprint, "signature": sign_event(private, Event(**lines[-1]["event"]))}


def retire_early(lines: Lines) -> None:
    lines[0]["export"]["signing_keys"][0]["retired_at"] = "2025-01-01T00:00:00.000000+00:00"


def set_event(index: int, field: str, value: object) -> Callable[[Lines], object]:
    def change(lines: Lines) -> None:
        lines[index]["event"][field] = value

    return change


def set_header(field: str, value: object) -> Callable[[Lines], object]:
    def change(lines: Lines) -> None:
        lines[0]["export"][field] = value

    return change


def exchange(lines: Lines) -> None:
    lines[3], lines[4] = lines[4], lines[3]


MANIPULATIONS: dict[str, tuple[Callable[[Lines], object], str]] = {
    "an edited event": (set_event(4, "teacher", "other"), "event 4"),
    "a deleted event": (lambda lines: lines.pop(3), "event 4"),
    "an inserted event": (insert, "event 10"),
    "a repeated event": (lambda lines: lines.insert(3, lines[3]), "event 3"),
    "two events exchanged": (exchange, "event 4"),
    "an edited event with its hashes": (edit_and_seal, "event 4"),
    "a cut tail": (lambda lines: lines.pop(), "8"),
    "a missing signature": (unsign, "event 4"),
    "a forged signature": (lambda lines: lines[4].update(signature="0" * 128), "event 4"),
    "a signature in capitals": (lambda lines: lines[4].update(signature=lines[4]["signature"].upper()), "event 4"),
    "an event made unsigned": (downgrade, "event 9"),
    "a key of somebody's own": (own_key, "event 9"),
    "a key retired before it signed": (retire_early, "event 1"),
    "wrong running sums": (set_event(4, "spent", 7), "event 4"),
    "a counter changed": (set_header("spent", 19), "19"),
    "a budget changed": (set_header("granted", 300), "300"),
    "another key's name": (set_header("key_name", "eve"), "event 1"),
}


def test_the_format_is_what_it_was(place: LedgerPlace, tmp_path: Path) -> None:
    """What is written today is byte for byte what is committed, on both databases."""
    write_golden(place, tmp_path)
    for file in (EXPORT, RECEIPTS, KEYS):
        assert (tmp_path / file.name).read_text() == file.read_text(), file.name


def test_golden_files_are_sound(tmp_path: Path) -> None:
    report = audit_export(EXPORT, pin=FIRST_KEY, receipts=RECEIPTS)
    assert report.faults == []
    assert report.notes == ["compared with the chain: 6 receipts"]
    for arguments in ([EXPORT], [RECEIPTS, "--keys", KEYS], [RECEIPTS, EXPORT, "--keys", KEYS, "--pin", FIRST_KEY]):
        done = stand_alone(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["sound"]), done


def test_the_verifier_says_that_receipts_alone_need_keys(tmp_path: Path) -> None:
    done = stand_alone(RECEIPTS, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "receipts do not say which keys are the teacher's: give --keys, or the history too" in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_is_not_many(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def verify() -> tuple[int, str, str]:
        return run("audit", "verify", capsys=capsys, monkeypatch=monkeypatch)

    place = sqlite_place(tmp_path)
    place.new_secret("ada", budget=10)
    monkeypatch.setenv("TEACHER_LEDGER", place.url)
    assert "key ada: 1 event, 0 of 10 spent" in verify()[1]
    execute(place, "UPDATE keys SET granted = 500")
    code, text, _ = verify()
    assert (code, text.splitlines()[-1]) == (1, "NOT SOUND: 1 fault")


def test_the_verifier_is_short_and_imports_nothing_of_ours() -> None:
    text = VERIFIER.read_text()
    assert len(text.splitlines()) < 100
    imported = [line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert set(imported) - sys.stdlib_module_names == {"cryptography"}


@pytest.mark.parametrize("name", MANIPULATIONS)
def test_a_manipulated_export_is_not_sound(tmp_path: Path, name: str) -> None:
    manipulate, words = MANIPULATIONS[name]
    lines = read(EXPORT)
    manipulate(lines)
    file = write(tmp_path / "history.jsonl", lines)
    faults = audit_export(file).faults
    assert any(words in str(fault) for fault in faults), faults
    done = stand_alone(file, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stdout, done.stdout


def test_a_tail_cut_off_with_its_counters_is_found_by_a_receipt(tmp_path: Path) -> None:
    lines = read(EXPORT)
    cut_with_header(lines)
    file = write(tmp_path / "history.jsonl", lines)
    assert audit_export(file).is_sound
    assert stand_alone(file, cwd=tmp_path).returncode == 0
    assert [str(fault) for fault in audit_export(file, receipts=RECEIPTS).faults] == [
        "key ada, event 9: a client holds its receipt, but the chain ends at event 8: its tail was cut off"
    ]
    done = stand_alone(file, RECEIPTS, cwd=tmp_path)
    assert (done.returncode, "event 9: the history lacks what a receipt proves" in done.stdout) == (1, True)


@pytest.mark.parametrize("field", ["images", "answer_digest", "idempotency_key", "at"])
def test_a_forged_receipt_is_found(tmp_path: Path, field: str) -> None:
    lines = read(RECEIPTS)
    lines[2]["event"][field] = 1 if field == "images" else "a" * 64
    seal(lines[2])
    file = write(tmp_path / "receipts.jsonl", lines)
    found = [str(fault) for fault in audit_export(EXPORT, receipts=file).faults]
    assert any("event 4" in fault and "forged" in fault for fault in found), found
    done = stand_alone(file, "--keys", KEYS, cwd=tmp_path)
    assert (done.returncode, "key ada, event 4 is unsigned or forged" in done.stdout) == (1, True)


def test_a_receipt_without_a_signature_proves_nothing(tmp_path: Path) -> None:
    lines = read(RECEIPTS)
    lines[2] |= {"signing_key": "", "signature": ""}
    file = write(tmp_path / "receipts.jsonl", lines)
    assert "line 3 of the receipts is no receipt" in str(audit_export(EXPORT, receipts=file).faults[0])
    assert stand_alone(file, "--keys", KEYS, cwd=tmp_path).returncode == 1


def test_another_pin_is_no_key_of_the_history(tmp_path: Path) -> None:
    assert "is none of this ledger's" in str(audit_export(EXPORT, pin="a" * 64).faults[0])
    done = stand_alone(EXPORT, "--pin", "a" * 64, cwd=tmp_path)
    assert (done.returncode, "is not among the signing keys" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"\xff\xfe", b"[1]\n", b'{"export": 3}\n', b'{"export": {}}\n', b"[" * 60_000, b"\x00"]
)
def test_what_is_no_export_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "history.jsonl"
    file.write_bytes(content)
    with pytest.raises(OperatorError, match=r"history\.jsonl"):
        audit_export(file)
    done = stand_alone(file, cwd=tmp_path)
    assert len(done.stderr) < 200
    assert (done.returncode, done.stderr.startswith("cannot be read: "), "Traceback" in done.stderr) == (
        2,
        True,
        False,
    )


@pytest.mark.parametrize(
    "line", ["", "null", "7", '{"event": 7}', '{"event": {}}', "{", '{"event": {"sequence": true}}']
)
def test_lines_that_are_no_events_are_faults(tmp_path: Path, line: str) -> None:
    lines = EXPORT.read_text().splitlines()
    lines[4] = line
    file = tmp_path / "history.jsonl"
    file.write_text("\n".join(lines) + "\n")
    faults = audit_export(file).faults
    assert any(fault.sequence == 4 for fault in faults), faults


def run(
    *arguments: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["teacher", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_line(
    place: LedgerPlace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def teacher(*arguments: object) -> tuple[int, str, str]:
        return run("audit", *arguments, capsys=capsys, monkeypatch=monkeypatch)

    write_history(place)
    monkeypatch.setenv("TEACHER_LEDGER", place.url)
    out = tmp_path / "history.jsonl"
    assert teacher("export", "--key", "ada", "--out", out)[0] == 0
    assert out.stat().st_mode & 0o777 == 0o600
    code, text, _ = teacher("export", "--key", "ada")
    assert (code, text.splitlines()[1:]) == (0, out.read_text().splitlines()[1:])
    assert not [line for line in text.splitlines() if '"bob"' in line]
    receipts = write(tmp_path / "receipts.jsonl", [x for x in read(out)[1:] if x["event"]["kind"] == "answer"])
    code, text, _ = teacher("verify", "--receipts", receipts)
    assert (code, text.splitlines()[-1]) == (0, "sound")
    code, text, _ = teacher("verify", out, "--receipts", receipts, "--json")
    assert (code, json.loads(text)["sound"], json.loads(text)["faults"]) == (0, True, [])

    execute(place, "DELETE FROM event_images WHERE sequence = 9", "DELETE FROM answers WHERE sequence = 9",
            "DELETE FROM events WHERE sequence = 9", "UPDATE keys SET spent = 11 WHERE id = 1")  # fmt: skip
    assert teacher("verify")[0] == 0, "nobody can tell, without a receipt"
    code, text, _ = teacher("verify", "--receipts", receipts)
    assert code == 1
    assert "FAULT key ada, event 9: a client holds its receipt, but the chain ends at event 8" in text
    code, text, _ = teacher("verify", "--receipts", receipts, "--key", "bob")
    assert (code, "note: not compared, as of other keys: 6 receipts" in text) == (0, True)
    execute(place, "UPDATE keys SET granted = 500 WHERE id = 1")
    code, text, _ = teacher("verify", "--json")
    assert (code, json.loads(text)["faults"][0]["key"]) == (1, "ada")

    for wrong, words in (
        (["verify", tmp_path / "none.jsonl"], "none.jsonl cannot be read: No such file"),
        (["verify", "--pin", "abc"], "--pin is 'abc'"),
        (["verify", out, "--key", "ada"], "--key goes with a ledger"),
        (["export", "--key", "eve"], "key is 'eve', but there is no such key"),
        (["export", "--key", "ada", "--out", tmp_path / "no" / "x"], "cannot be written"),
    ):
        code, _, err = teacher(*wrong)
        assert (code, words in err, "Traceback" in err) == (2, True, False), err
    monkeypatch.delenv("TEACHER_LEDGER")
    assert "nothing to verify" in teacher("verify")[2]


def test_an_export_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)  # whose cells may hold anything
    write_history(place)
    out = tmp_path / "history.jsonl"
    out.write_text("the one before")
    execute(place, "UPDATE events SET detail = x'00' WHERE sequence = 5")
    environment = os.environ | {"TEACHER_LEDGER": place.url}
    command = [str(Path(sys.executable).with_name("teacher")), "audit", "export", "--key", "ada", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, "cannot be exported" in done.stderr) == (2, True), done.stderr
    assert out.read_text() == "the one before"
    assert not list(tmp_path.glob(".history*"))
    with place.open() as database:
        assert audit_ledger(database).faults[0].sequence == 5


def test_an_export_takes_no_devices_place(tmp_path: Path) -> None:
    pipe, aim, link = tmp_path / "pipe", tmp_path / "aim", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(aim)
    with pytest.raises(OperatorError, match="pipe is no plain file"), whole_file(pipe):
        pass
    with whole_file(link) as stream:
        stream.write("whole")
    assert (pipe.is_fifo(), link.is_symlink(), aim.read_text()) == (True, True, "whole")


@pytest.mark.parametrize("command", ["audit export --key ada", "audit verify", "keys list", "usage"])
def test_a_full_disk_behind_standard_output_is_one_line(command: str, tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    write_history(place)
    environment = os.environ | {"TEACHER_LEDGER": place.url}
    teacher = Path(sys.executable).with_name("teacher")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [teacher, *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert "Idempotency-Key" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
