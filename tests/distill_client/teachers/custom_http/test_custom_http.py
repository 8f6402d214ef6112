"""Teachers described wholly in TOML: what a file may say, what is sent for it, and what is made of replies."""

import base64
import email.parser
import email.policy
import io
import json
import logging
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import tomli_w
from PIL import Image

from distill_client.errors import ConfigError, TeacherProtocolError, TeacherRefused, TeacherUnavailable
from distill_client.teachers.adapters.kinds import connect_described, load_teacher_file, make_adapter
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.transport import HttpReply
from tests.distill_client.teachers.adapters.vendor import CLASSES, HTML, IMAGES, ROWS, Asked, Reply, Vendor, vendor
from tests.distill_client.teachers.custom_http.described import SECRET, a_file, asked_as

ONE = IMAGES[:1]
ROW = [{"name": name, "score": float(score)} for name, score in zip(CLASSES, ROWS[0], strict=True)]


@pytest.fixture
def theirs() -> Any:
    with vendor() as found:
        yield found


def faults(**keys: Any) -> str:
    with pytest.raises(ValueError, match="validation error") as refused:
        a_file(**{"url": "http://teacher.test/x", **keys})
    return str(refused.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"request": {"template": {"a": ["{image_base64}", "{modell}"]}}}, r"request\.template\.a\[1\].*\{modell\}"),
        ({"request": {"template": {"a": 1}}}, "never says where the image goes"),
        ({"request": {"template": '{"a": {image_base64}}'}}, "begins like JSON and is none"),
        ({"request": {"template": {"a": "{images}", "b": "{image_base64}"}}}, r"template\.b.*\{image_base64\}"),
        ({"request": {"template": {"a": "{images}"}, "each": "x"}}, "never says where the image goes"),
        ({"request": {"template": tomllib.loads("a = 2026-01-01")}}, r"request\.template\.a is a date"),
        ({"request": {"body": "file", "template": {"a": 1}}}, "template is the body where body is 'json'"),
        ({"request": {"body": "json"}}, "template is the body where body is 'json'"),
        ({"request": {"template": {"a": "{image_base64}"}, "headers": {"X-A": "a\r\nX-B: b"}}}, r"headers\.X-A"),
        ({"request": {"template": {"a": "{image_base64}"}, "headers": {"X A": "b"}}}, r"headers\.X A"),
        ({"request": {"template": {"a": "{image_base64}"}, "headers": {"Authorization": "Bearer x"}}}, "use secrets"),
        ({"request": {"template": {"a": "{image_base64}"}, "query": {"api_key": "x"}}}, "use secrets"),
        ({"url": "http://teacher.test/x?token=abc"}, "url holds token"),
        ({"url": "http://user:pass@teacher.test/x"}, "user's name or password"),
        ({"url": "http://teacher.test/{model}"}, r"url is .*\{model\}"),
        ({"constants": {"image_base64": "x"}}, "constants.image_base64"),
        ({"secrets": [{"variable": "A", "header": "X-K", "query": "k"}]}, "exactly one of header, query and field"),
        ({"secrets": [{"variable": "A", "field": "k"}], "request": {"body": "file"}}, "needs a body"),
        ({"secret_variable": "A", "secrets": [{"variable": "B", "header": "authorization"}]}, "same header twice"),
        ({"auth": "aws-sigv4"}, "belong together"),
        ({"images_per_call": 4}, r"more than 1 needs \{images\}"),
        ({"reply": {"rows": "a[", "label": "b", "score": "c"}}, r"reply\.rows.*\n.*not a JMESPath"),
        ({"reply": {"rows": "a", "label": "b"}}, "given are label, rows of"),
        ({"reply": {}}, "given are none of"),
        ({"reply": {"label": "a"}}, "gives no more than 'label'"),
        ({"reply": {"scores": "@", "logits": True}, "answers": "top-k:2"}, "softmax of logits needs"),
        ({"reply": {"scores": "@", "item_signals": [{}]}}, "item_signals need error"),
        ({"reply": {"scores": "@", "error": "e", "item_signals": [{"pattern": "("}]}}, "not a regular expression"),
        ({"signals": [{"meaning": "throttled", "body": "["}]}, r"signals\.0\.body.*\n.*not a regular expression"),
        ({"signals": [{"meaning": "throttled", "path": "a["}]}, r"signals\.0\.path.*\n.*not a JMESPath"),
        ({"signals": [{"meaning": "slow"}]}, r"signals\.0\.meaning"),
        ({"signals": [{"meaning": "throttled", "status": [42]}]}, r"signals\.0\.status"),
        ({"reply": {"scores": "@", "scale": 0}}, r"reply\.scale"),
        ({"reply": {"scores": "@", "spelt": 1}}, r"reply\.spelt"),
    ],
)
def test_a_mistake_in_a_file_is_named_before_anything_is_asked(keys: dict[str, Any], says: str) -> None:
    assert re.search(says, faults(**keys), re.DOTALL), faults(**keys)


def test_a_file_that_is_read_from_disk_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "teacher.toml"
    content = a_file("http://teacher.test/x").model_dump(mode="json", exclude_unset=True)
    content["reply"]["rows"] = "results["
    path.write_text(tomli_w.dumps(content))
    with pytest.raises(ConfigError, match=r"teacher\.toml: reply\.rows: not a JMESPath expression"):
        load_teacher_file(path)


def asked_with(theirs: Vendor, content: Any = None, **keys: Any) -> Asked:
    """What is sent for one image (three, where a call takes several)."""
    theirs.always(content if content is not None else {"results": ROW})
    file = a_file(f"{theirs.url}/{{model}}/v1", **{"constants": {"model": "a b/c", "k": 3}, **keys})
    transport_teacher = connect_described(file, Manners(5, requests_in_flight=1))
    try:
        adapter = make_adapter(file)
        images = IMAGES[: file.images_per_call]
        transport_teacher._transport.send(adapter.request(images, "key-1"))
    finally:
        transport_teacher.close()
    return theirs.asked[-1]


def test_constants_stand_in_the_address_quoted_and_in_the_body_with_their_type(theirs: Vendor) -> None:
    template = {"n": "{k}", "text": "k is {k}", "plain": "{{k}}", "all": "{class_count}", "image": "{image_data_uri}"}
    asked = asked_with(theirs, request={"template": template, "query": {"q": "{k}&"}, "headers": {"X-K": "{k}"}})
    assert asked.path == "/a%20b%2Fc/v1?q=3%26"
    assert asked.headers["x-k"] == "3"
    body = asked.json
    assert (body["n"], body["text"], body["plain"], body["all"]) == (3, "k is 3", "{k}", 4)
    assert body["image"].startswith("data:image/png;base64,")


def test_a_template_may_be_json_in_a_text_with_the_idempotency_key(theirs: Vendor) -> None:
    template = '{"inputs": [{"image": {"b64": "{image_base64}"}, "id": "{idempotency_key}"}], "deep": {"x": null}}'
    asked = asked_with(theirs, request={"template": template, "headers": {"Idempotency-Key": "{idempotency_key}"}})
    assert asked.json["inputs"][0]["id"] == asked.headers["idempotency-key"] == "key-1"
    assert asked.json["deep"] == {"x": None}
    image = Image.open(io.BytesIO(base64.b64decode(asked.json["inputs"][0]["image"]["b64"])))
    assert np.array_equal(np.asarray(image), IMAGES[0])


def test_several_images_are_a_list_in_order(theirs: Vendor) -> None:
    request = {"template": {"batch": "{images}"}, "each": {"d": "{image_base64}"}}
    reply = {"images": "r", "scores": "@"}
    asked = asked_with(theirs, request=request, reply=reply, images_per_call=3)
    found = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each["d"])))) for each in asked.json["batch"]]
    assert np.array_equal(found, IMAGES)


@pytest.mark.parametrize(
    ("encoding", "media_type"), [("png", "image/png"), ("webp", "image/webp"), ("jpeg", "image/jpeg")]
)
def test_the_file_alone_is_png_unless_asked(theirs: Vendor, encoding: str, media_type: str) -> None:
    asked = asked_with(theirs, request={"body": "file", **({} if encoding == "png" else {"encoding": encoding})})
    assert asked.headers["content-type"] == media_type
    image = Image.open(io.BytesIO(asked.content))
    assert image.format == encoding.upper()
    assert np.array_equal(np.asarray(image), IMAGES[0]) == (encoding != "jpeg")


def test_multipart_carries_fields_and_files(theirs: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", SECRET)
    asked = asked_with(
        theirs,
        request={"body": "multipart", "file_field": "images", "fields": {"model": "{model}", "n": "{k}"}},
        reply={"images": "r", "scores": "@"},
        secrets=[{"variable": "THEIR_KEY", "field": "api_key"}],
        images_per_call=2,
    )
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    parts = list(email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + asked.content).iter_parts())
    named = [(part.get_param("name", header="content-disposition"), part.get_payload(decode=True)) for part in parts]
    assert named[:3] == [("model", b"a b/c"), ("n", b"3"), ("api_key", SECRET.encode())]
    assert [name for name, _ in named[3:]] == ["images", "images"]
    files = [file for _, file in named[3:] if isinstance(file, bytes)]
    assert np.array_equal([np.asarray(Image.open(io.BytesIO(file))) for file in files], IMAGES[:2])


P = [0.1, 0.2, 0.3, 0.4]
NESTED = {"a": {"b": [{"n": name, "s": {"v": score}} for name, score in zip(CLASSES, P, strict=True)]}}
READINGS: list[tuple[dict[str, Any], Any, list[float]]] = [
    ({"rows": "a.b", "label": "n", "score": "s.v"}, NESTED, P),
    ({"labels": "n", "scores": "s"}, {"n": CLASSES[::-1], "s": P[::-1]}, P),
    ({"labels": "i", "scores": "s"}, {"i": [3, 2, 1, 0], "s": P[::-1]}, P),
    ({"scores": "p"}, {"p": dict(zip(CLASSES, P, strict=True))}, P),
    ({"scores": "[0]"}, [P], P),
    ({"scores": "p", "scale": 100}, {"p": [10, 20, 30, 40]}, P),
    ({"scores": "p", "logits": True}, {"p": np.log(P).tolist()}, P),
    ({"scores": "p", "logits": True}, {"p": [1000, 1000, -1e308, -1e308]}, [0.5, 0.5, 0, 0]),
    ({"scores": "p", "independent": True}, {"p": [1, 1, 0, 0]}, [0.5, 0.5, 0, 0]),
]


@pytest.mark.parametrize(("reply", "content", "wanted"), READINGS)
def test_scores_in_every_form(theirs: Vendor, tmp_path: Path, reply: Any, content: Any, wanted: list[float]) -> None:
    theirs.always(content)
    with asked_as(a_file(theirs.url, reply=reply), tmp_path) as (teacher, _):
        answer = teacher.label(ONE, "key")
    assert answer.values == pytest.approx(np.array([wanted]), abs=1e-7)
    assert answer.values.dtype == np.float32


@pytest.mark.parametrize("label", ["Sandal", 2, "2"])
def test_a_single_label(theirs: Vendor, tmp_path: Path, label: str | int) -> None:
    theirs.always({"top": label})
    with asked_as(a_file(theirs.url, reply={"label": "top"}, answers="label"), tmp_path) as (teacher, _):
        answer = teacher.label(ONE, "key")
    assert answer.values.tolist() == [2]
    assert answer.values.dtype == np.int64


def test_what_is_below_the_minimum_score_is_not_disclosed(theirs: Vendor, tmp_path: Path) -> None:
    theirs.always({"results": ROW})
    reply = {"rows": "results", "label": "name", "score": "score", "minimum_score": 0.15}
    with asked_as(a_file(theirs.url, reply=reply, answers="top-k:2"), tmp_path) as (teacher, _):
        values = teacher.label(ONE, "key").values
    assert values == pytest.approx(np.array([[0.7, 0.2, np.nan, np.nan]]), nan_ok=True)


DEEP = json.loads("[" * 300 + "]" * 300)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HTML, "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ({"results": DEEP}, "nested deeper"),
        ({"outcome": ROW}, "reply.rows = 'results' finds no list"),
        ({"results": "none"}, "finds no list"),
        ({"results": []}, "has no label"),
        ({"results": ROW + ROW[:1]}, "comes twice"),
        ({"results": [{"name": "Sandal"}]}, "not a number"),
        ({"results": [{"name": "Sandal", "score": "0.5"}]}, "not a number"),
        ({"results": [{"name": "Sandal", "score": True}]}, "not a number"),
        ({"results": [{"name": None, "score": 0.5}]}, "not a name"),
        ({"results": [{"name": "Sandal", "score": 10**400}]}, "not a number"),
        ({"results": [{"name": "Sandal", "score": float("nan")}]}, "not a number"),
        ({"results": [{"name": "Sandal", "score": 70}]}, "score of 70 after reply.scale"),
        ({"results": [{"name": "Sandal", "score": -0.5}]}, "score of -0.5"),
        ({"results": [{"name": "Tree", "score": 0.5}]}, "'Tree', which is none"),
        ({"results": ROW[:2]}, 'write answers = "top-k:K"'),
        ({"results": [{"name": name, "score": 0.9} for name in CLASSES]}, "3.6 together"),
    ],
)  # fmt: skip
def test_a_reply_that_is_not_as_described_counts_as_spent(
    theirs: Vendor, tmp_path: Path, content: Any, says: str
) -> None:
    theirs.always(content)
    with asked_as(a_file(theirs.url), tmp_path) as (teacher, ledger):
        with pytest.raises(TeacherProtocolError) as refused:
            teacher.label(ONE, "key")
        assert says in str(refused.value)
        assert len(str(refused.value)) < 600
        assert ledger.usage().spent == 1  # it may have been paid for


def test_classes_that_a_label_map_does_not_reach_are_its_fault_first(theirs: Vendor, tmp_path: Path) -> None:
    theirs.always({"results": [{"name": "a", "score": 0.7}, {"name": "b", "score": 0.3}]})
    mapped = {"label_map": {"a": CLASSES[0], "b": CLASSES[1]}}
    says = r"scored 2 of 4 classes.*look which of its names label_map leaves out"
    with (
        asked_as(a_file(theirs.url, **mapped), tmp_path) as (teacher, _),
        pytest.raises(TeacherProtocolError, match=says),
    ):
        teacher.label(ONE, "key")


def test_another_number_of_answers_than_images_is_refused(theirs: Vendor, tmp_path: Path) -> None:
    theirs.always({"r": [[0.25] * 4] * 2})
    keys = {"request": {"template": {"b": "{images}"}}, "reply": {"images": "r", "scores": "@"}, "images_per_call": 3}
    with (
        asked_as(a_file(theirs.url, **keys), tmp_path) as (teacher, _),
        pytest.raises(TeacherProtocolError, match="2 entries for 3 images"),
    ):
        teacher.label(IMAGES, "key")


def test_one_images_error_by_its_pattern(theirs: Vendor, tmp_path: Path) -> None:
    reply = {
        "images": "r",
        "scores": "p",
        "error": "e",
        "item_signals": [
            {"pattern": "busy", "retryable": True, "charged": "no"},
            {"pattern": '"code": 7', "charged": "yes"},
        ],
    }
    keys = {"request": {"template": {"b": "{images}"}}, "reply": reply, "images_per_call": 3}
    theirs.always({"r": [{"e": "too busy"}, {"e": {"code": 7}}, {"e": "what?", "p": None}]})
    with asked_as(a_file(theirs.url, **keys), tmp_path) as (teacher, _):
        failures = teacher.label(IMAGES, "key").failures
    assert [(failures[at].retryable, failures[at].charged) for at in range(3)] == [
        (True, "no"),
        (False, "yes"),
        (False, "unknown"),
    ]


def test_own_signals_come_first_and_may_be_in_a_success(theirs: Vendor, tmp_path: Path) -> None:
    signals = [
        {"meaning": "exhausted", "status": [200], "path": "quota", "body": "used up"},
        {"meaning": "throttled", "status": [400], "body": "slow down"},
        {"meaning": "bad_request", "status": [429]},
    ]
    adapter = make_adapter(a_file("http://teacher.test", signals=signals))

    def read(status: int, content: Any) -> None:
        adapter.read(HttpReply(status, {}, json.dumps(content).encode(), "http://teacher.test"), 1)

    with pytest.raises(TeacherRefused, match="exhausted"):
        read(200, {"quota": "used up"})
    with pytest.raises(Retryable) as throttled:
        read(400, {"error": "slow down"})
    assert throttled.value.pressure == "throttled"
    with pytest.raises(TeacherRefused, match="bad_request"):
        read(429, {})
    read(200, {"quota": "plenty", "results": ROW})


@pytest.mark.parametrize("place", ["header", "query", "field"])
def test_a_key_is_sent_in_its_place_and_shown_nowhere(
    theirs: Vendor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
) -> None:
    """The server repeats the key in its refusals, as some do: plain, quoted and escaped."""
    monkeypatch.setenv("THEIR_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    file = a_file(theirs.url, secrets=[{"variable": "THEIR_KEY", place: "x-key"}])
    said: list[str] = []

    def answer(asked: Asked) -> Reply:
        sent = {
            "header": asked.headers.get("x-key"),
            "query": asked.path.partition("x-key=")[2] and SECRET,
            "field": asked.json.get("x-key"),
        }
        assert sent[place] == SECRET
        said.append(asked.path)
        echo = {"error": f"key {SECRET} is not ours", "asked": asked.path, "again": json.dumps(SECRET)}
        return Reply(echo, 400)

    theirs.answer = answer
    with asked_as(file, tmp_path) as (teacher, ledger):
        with pytest.raises(TeacherRefused) as refused:
            teacher.label(ONE, "key")
        written = "".join(event.model_dump_json() for event in ledger.events())
    shown = str(refused.value) + repr(refused.value.__cause__) + caplog.text + written + repr(teacher.__dict__)
    shown += file.model_dump_json() + repr(make_adapter(file).request(ONE, "key"))
    shown += (tmp_path / "own.sqlite").read_bytes().decode("latin-1")
    assert "is not ours" in shown
    for form in (SECRET, quote(SECRET, safe=""), json.dumps(SECRET)[1:-1]):
        assert form not in shown
    assert said


def test_a_lost_connection_shows_no_key_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", SECRET)
    file = a_file("http://127.0.0.1:9/x", secrets=[{"variable": "THEIR_KEY", "query": "k"}])
    with (
        asked_as(file, tmp_path, deadline_s=0.3) as (teacher, _),
        pytest.raises(TeacherUnavailable) as refused,
    ):
        teacher.label(ONE, "key")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("value", [None, "", "short", "has spaces in it", "line\nbreak-and-more"])
def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("THEIR_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("THEIR_KEY", value)
    file = a_file("http://teacher.test", secrets=[{"variable": "THEIR_KEY", "header": "X-Key"}])
    with pytest.raises(ConfigError, match="THEIR_KEY, which secrets names"):
        connect_described(file, Manners(5, requests_in_flight=1))


def test_aws_without_botocore_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "botocore", None)
    file = a_file("http://teacher.test", auth="aws-sigv4", aws={"service": "sagemaker", "region": "eu-central-1"})
    with pytest.raises(ConfigError, match=r"client,aws"):
        file.signer()


def test_botocore_is_not_imported_for_anybody_else() -> None:
    program = (
        "import sys, distill_client.cli, distill_client.teachers.adapters.kinds; "
        "sys.exit(any(name.split('.')[0] == 'botocore' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_an_image_that_no_call_can_hold_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="call_bytes_max is 3000"):
        make_adapter(a_file("http://teacher.test", call_bytes_max=3000, min_size="500x500"))
