"""Audits against a file that the owner wrote, honest, cut off, edited, or another key's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_client.audit import Audit, audit_folder, audit_offline, read_export, receipt_lines
from distill_client.errors import RunStoreError
from distill_client.run_folder import open_run
from shared.wire.contracts import Receipt
from shared.wire.receipts import event_hash
from shared.wire.signatures import receipt_faults, trusted_keys
from tests.distill_client.fakes import FakeTeacher, Signer, begin, bring_to_its_end, tiny_config

AT = "2026-02-01T00:00:00.000000+00:00"


def write_export(path: Path, teacher: FakeTeacher, **changes: object) -> Path:
    """What `teacher audit export` writes of this teacher's log."""
    keys = teacher.signing_keys()
    head = {
        "key_name": "ada",
        "ledger": "fake",
        "granted": teacher.granted,
        "spent": teacher.spent,
        "events": len(teacher.log),
        "last_hash": teacher.log[-1].hash,
        "signing_keys": [key.model_dump() for key in keys.keys] if keys else [],
        "at": AT,
    }
    lines = [{"export": head | changes}]
    lines += [{"event": row.event.model_dump(), **row.signature.model_dump()} for row in teacher.signed_events()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def bought(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakeTeacher]:
    """A signed run of 40 images and 3 batches; tests only read it, or leave evidence in it."""
    path, teacher = tmp_path_factory.mktemp("runs") / "run", FakeTeacher(budget=60, signer=Signer())
    teacher.charge_other_run(7)
    config = tiny_config(
        teacher={"requests_in_flight": 1},
        synthesis={"images": 0},
        training={"steps": 2},
        baselines={"student_alone": False, "standard_kd": False},
    )
    begin(path, config, teacher)
    bring_to_its_end(path, teacher)
    return path, teacher


def audit(path: Path, export: Path) -> Audit:
    with open_run(path) as folder:
        return audit_offline(folder, read_export(export))


def test_an_honest_file_says_what_the_server_says(bought: tuple[Path, FakeTeacher], tmp_path: Path) -> None:
    path, teacher = bought
    offline = audit(path, write_export(tmp_path / "log.jsonl", teacher))
    with open_run(path) as folder:
        online = audit_folder(folder, teacher)
    assert offline.is_equal, offline.faults
    assert offline.receipts == 3
    assert "in the log of log.jsonl, row by row the same; every one of the 3 answers" in offline.sentence
    assert {**offline.as_json(), "sentence": ""} == {**online.as_json(), "sentence": ""}


def test_signing_keys_that_the_file_lacks_are_those_the_run_kept(
    bought: tuple[Path, FakeTeacher], tmp_path: Path
) -> None:
    path, teacher = bought
    assert audit(path, write_export(tmp_path / "log.jsonl", teacher, signing_keys=[])).is_equal
    kept = (path / "signing_keys.json").read_bytes()
    (path / "signing_keys.json").write_text("{")
    try:
        assert audit(path, write_export(tmp_path / "log.jsonl", teacher)).is_equal
        without = audit(path, write_export(tmp_path / "log.jsonl", teacher, signing_keys=[]))
        assert any("do not follow from" in fault for fault in without.faults)
    finally:
        (path / "signing_keys.json").write_bytes(kept)


def cut_last_line(lines: list[str]) -> list[str]:
    return lines[:-1]


def cut_in_a_line(lines: list[str]) -> list[str]:
    return [*lines[:-1], lines[-1][:50]]


def double_a_line(lines: list[str]) -> list[str]:
    return [*lines[:3], *lines[2:]]


def swap_lines(lines: list[str]) -> list[str]:
    return [*lines[:3], lines[4], lines[3]]


def edit_a_line(lines: list[str]) -> list[str]:
    return [*lines[:3], lines[3].replace('"images": 16', '"images": 15'), *lines[4:]]


def rehash_a_line(lines: list[str]) -> list[str]:
    line = json.loads(lines[5])
    event = Receipt.model_validate({**line, "signing_key": "0" * 64, "signature": "0" * 128}).event
    event = event.model_copy(update={"images": 1})
    line["event"] = event.model_copy(update={"hash": event_hash(event)}).model_dump()
    return [*lines[:5], json.dumps(line) + "\n"]


def change_the_counters(lines: list[str]) -> list[str]:
    return [lines[0].replace('"spent": 47', '"spent": 46'), *lines[1:]]


@pytest.mark.parametrize(
    ("manipulate", "named"),
    [
        (
            cut_last_line,
            ["it was cut off or changed on its way", "event 5, in the part of log.jsonl that is missing"],
        ),
        (
            cut_in_a_line,
            ["it was cut off or changed on its way", "event 5, in the part of log.jsonl that is missing"],
        ),
        (double_a_line, ["follows event 2: one is missing, repeated or moved"]),
        (swap_lines, ["one is missing, repeated or moved"]),
        (edit_a_line, ["was edited", "images is 16 here and 15 there", "event 3 has a forged signature"]),
        (
            rehash_a_line,
            ["event 5 has a forged signature", "The log has another event 5, with a signature that is none"],
        ),
        (change_the_counters, ["counter says 46 spent, its log adds up to 47"]),
    ],
)
def test_every_manipulation_of_a_file_is_named(
    bought: tuple[Path, FakeTeacher], tmp_path: Path, manipulate: Callable[[list[str]], list[str]], named: list[str]
) -> None:
    path, teacher = bought
    export = write_export(tmp_path / "log.jsonl", teacher)
    export.write_text("".join(manipulate(export.read_text().splitlines(keepends=True))))
    found = audit(path, export)
    assert not found.is_equal
    for words in named:
        assert any(words in fault for fault in found.faults), found.faults


@pytest.mark.parametrize("lines_kept", [5, 3, 1])
def test_what_a_file_lacks_by_its_own_first_line_is_nothing_against_the_teacher(
    bought: tuple[Path, FakeTeacher], tmp_path: Path, lines_kept: int
) -> None:
    path, teacher = bought
    export = write_export(tmp_path / "log.jsonl", teacher)
    export.write_text("".join(export.read_text().splitlines(keepends=True)[:lines_kept]))
    evidence = sorted((path / "evidence").glob("*"))
    found = audit(path, export)
    assert {difference.kind for difference in found.differences} == {"export"}
    missing = [fault for fault in found.faults if "in the part of log.jsonl that is missing" in fault]
    assert len(missing) == {5: 1, 3: 3, 1: 3}[lines_kept], "one for each answer that was bought"
    assert sorted((path / "evidence").glob("*")) == evidence


def test_a_first_line_that_hides_what_is_missing_is_evidence(
    bought: tuple[Path, FakeTeacher], tmp_path: Path
) -> None:
    path, teacher = bought
    last = teacher.log[-2]
    export = write_export(tmp_path / "log.jsonl", teacher, events=4, last_hash=last.hash, spent=last.spent)
    export.write_text("".join(export.read_text().splitlines(keepends=True)[:-1]))
    found = audit(path, export)
    assert [difference.kind for difference in found.differences] == ["log", "evidence"], found.faults
    assert "ends with event 4" in found.faults[1]


def test_what_contradicts_a_receipt_is_kept_with_the_receipt(
    bought: tuple[Path, FakeTeacher], tmp_path: Path
) -> None:
    path, teacher = bought
    export = write_export(tmp_path / "log.jsonl", teacher)
    export.write_text("".join(rehash_a_line(export.read_text().splitlines(keepends=True))))
    found = audit(path, export)
    (evidence,) = [difference for difference in found.differences if difference.kind == "evidence"]
    file = Path(evidence.sentence.rpartition("it is kept in ")[2])
    assert file.parent == path / "evidence"
    content = json.loads(file.read_text())
    assert (content["receipt"]["event"]["images"], content["in_log"]["images"]) == (8, 1)
    keys = teacher.signing_keys()
    assert keys is not None
    trusted = trusted_keys(keys.keys, content["pinned"]["signing_key"])
    assert receipt_faults(Receipt.model_validate(content["receipt"]), trusted) == []


def test_a_file_older_than_the_last_answers_asks_for_a_newer_one(
    bought: tuple[Path, FakeTeacher], tmp_path: Path
) -> None:
    path, teacher = bought
    earlier = FakeTeacher(budget=60, signer=teacher.signer)
    earlier.log, earlier.signatures = teacher.log[:3], teacher.signatures
    found = audit(path, write_export(tmp_path / "log.jsonl", earlier, at="2025-12-31T00:00:00.000000+00:00"))
    assert {difference.kind for difference in found.differences} == {"export"}
    assert all("ask the teacher's owner for a newer file" in fault for fault in found.faults)


def test_the_log_of_another_key_is_no_log_of_this_run(bought: tuple[Path, FakeTeacher], tmp_path: Path) -> None:
    other = FakeTeacher(budget=99, signer=Signer())
    with pytest.raises(RunStoreError, match="is the log of key 'ada', or was changed from its first event on"):
        audit(bought[0], write_export(tmp_path / "log.jsonl", other))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "not a file that `teacher audit export` wrote; line 1"),
        (b"\xff\xfe", "line 1: it is no text in UTF-8"),
        (b"[]\n", "not a file that"),
        (b'{"export": {"key_name": "ada"}}\n', "line 1: export.granted: Field required"),
        (
            b'{"export": {"key_name": "ada", "granted": 1, "spent": 0, "events": 1}}\n{"event": 1}\n',
            "line 2 is no event",
        ),
    ],
)
def test_what_is_no_export_is_refused_with_its_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "log.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunStoreError, match=message) as caught:
        read_export(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_receipts_are_written_in_the_order_of_their_events(bought: tuple[Path, FakeTeacher]) -> None:
    with open_run(bought[0]) as folder:
        texts = [purchase.receipt_json or "" for purchase in folder.labels.purchases()]
    lines = [json.loads(line) for line in receipt_lines(texts[::-1]).splitlines()]
    assert [line["event"]["sequence"] for line in lines] == [3, 4, 5]
    assert all(set(line) == {"event", "signing_key", "signature"} for line in lines)
    with pytest.raises(RunStoreError, match="is damaged"):
        receipt_lines(["{"])
