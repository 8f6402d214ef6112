"""A folder of the user's own odd pictures against a real server: killed, its folder removed, resumed, and used."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from shared.wire.contracts import InputSpec
from shared.wire.image_files import decode_image_file
from shared.wire.images import batch_digest, image_digests
from tests.e2e.processes import ServerProcess, run, run_json
from tests.e2e.test_kill_and_resume import answers_kept, start_client, wait_until
from tests.shared.odd_pictures import (
    encode,
    ignored_files,
    paint,
    unusable_files,
    usable_files,
    write_all,
    write_good_pictures,
)

SPEC = InputSpec(height=64, width=64, channels=3, resize="crop")
PLANNED = 60
EXPERIMENT = """
name = "own-pictures"
seed = 5
budget_images = 60

[teacher]
name = "shapes"
images_per_request = 4

[pool]
folder = "my pictures"
images = 24

[synthesis]
images = 36
cvae = {{ epochs = 1, batch_size = 8 }}

[student]
network = "torchvision:mobilenet_v3_small"
augmentation = "none"

[training]
batch_size = 16
steps = 4

[evaluation]
held_out_fraction = 0.1
{evaluation}
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for label, name in enumerate(("round", "square", "wavy")):
        write_good_pictures(root / "train" / name, 6, seed=1000 * label)
        write_good_pictures(root / "val" / name, 2, seed=1000 * label + 500)
    return root


@pytest.fixture(scope="module")
def bundle(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 that has seen eighteen pictures once: bad, real, and all that is needed here."""
    folder = tmp_path_factory.mktemp("bundles") / "shapes"
    words = ("--network", "torchvision:resnet18", "--size", "64x64x3", "--name", "shapes", "--out", folder)
    run_json("teacher", "train", "--dataset", f"folder:{tree}", *words, "--epochs", 1, "--json")
    return folder


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(bundle, tmp_path / "ledger.sqlite", tmp_path / "server.log")
    process.start()
    yield process
    process.stop()
    assert "Traceback" not in process.log.read_text()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "my pictures"
    write_good_pictures(folder / "deeper", 14)
    write_all(folder, {**usable_files(), **unusable_files(), **ignored_files()})
    same = paint(200)
    write_all(folder, {"one.png": encode(same, "PNG"), "one again.webp": encode(same, "WEBP", lossless=True)})
    return folder


def write_experiment(path: Path, evaluation: str = "") -> Path:
    path.write_text(EXPERIMENT.format(evaluation=evaluation))
    return path


def test_a_folder_of_odd_pictures_is_distilled_through_a_kill_and_without_the_folder(
    server: ServerProcess, bundle: Path, pictures: Path, tree: Path, tmp_path: Path
) -> None:
    env, run_dir, log = server.create_key("owner", PLANNED), tmp_path / "run", tmp_path / "client.log"
    config = write_experiment(tmp_path / "own.toml", f'dataset = "folder:{tree}"')
    plan = run_json("distill", "plan", config, "--teacher", server.url, "--json", env=env)
    assert plan["total"] == PLANNED

    client = start_client(("distill", "run", config, "--teacher", server.url, "--out", run_dir), env, log)
    assert wait_until(lambda: answers_kept(run_dir) >= 3, client)
    client.kill()
    shutil.rmtree(pictures)
    assert start_client(("distill", "resume", run_dir), env, log).wait(150) == 0, log.read_text()

    said = log.read_text()
    assert "Traceback" not in said
    assert f"pool: 24 of 28 usable pictures in {pictures}" in said
    for name in (*unusable_files(), "one.png", "one row.png"):
        assert f"  skipped {name}: " in said
    kept = json.loads((run_dir / "pool.json").read_text())
    assert len(kept["files"]) == 24
    assert len(kept["skipped"]) == len(unusable_files()) + 2
    summary = json.loads((run_dir / "summary.json").read_text())
    images = summary["images"]
    assert images["planned"] == images["bought"] == images["charged_by_server"] == images["in_audit_log"] == PLANNED
    assert images["by_phase"]["cvae"] > 0
    assert summary["test_images"] == 6
    assert summary["baselines"]["student_alone"] is None
    audit = run_json("distill", "audit", run_dir, "--json", env=env)
    assert audit["equal"] is True

    answers = tmp_path / "answers.npz"
    run_json(
        "teacher", "predict", "--bundle", bundle, "--dataset", f"folder:{tree}", "--out", answers, "--json", env=env
    )
    evaluated = run_json("distill", "evaluate", run_dir, "--teacher-answers", answers, "--json", env=env)
    assert evaluated["agreement_on"] == "the owner's answers on the test set"
    assert evaluated["agreement_images"] == 6

    write_all(tmp_path / "new", usable_files())
    files = sorted((tmp_path / "new").iterdir())
    predictions = run_json("distill", "predict", run_dir, *files, "--json", env=env)["predictions"]
    assert isinstance(predictions, list)
    assert [prediction["file"] for prediction in predictions] == [str(file) for file in files]
    assert {prediction["class"] for prediction in predictions} <= {"round", "square", "wavy"}


def test_what_is_charged_for_a_file_is_what_the_client_makes_of_it(server: ServerProcess, tmp_path: Path) -> None:
    """The server's log names the image it decoded by its digest: for every odd file the same as on this side."""
    env = server.create_key("files", 100)
    headers = {"Authorization": f"Bearer {env['DISTILL_API_KEY']}"}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=30) as client:
        card = client.get("/v1/teachers/shapes").json()
        assert card["input"]["resize"] == "crop"
        for name, content in usable_files().items():
            answer = client.post("/v1/teachers/shapes/labels", files={"images": (name, content)})
            assert answer.status_code == 200, (name, answer.text)
        for name, content in unusable_files().items():
            if not name.endswith((".gif", ".tiff")):
                refused = client.post("/v1/teachers/shapes/labels", files={"images": (name, content)})
                assert refused.status_code in (400, 422), (name, refused.text)
        events = client.get("/v1/events").json()["events"]
    charged = [event["input_digest"] for event in events if event["kind"] == "answer"]
    spec = InputSpec.model_validate(card["input"])
    here = [
        batch_digest(image_digests(decode_image_file(content, spec, pixels_max=10**8)[None]))
        for content in usable_files().values()
    ]
    assert charged == here


def test_without_a_test_set_agreement_is_what_is_reported(
    server: ServerProcess, pictures: Path, tmp_path: Path
) -> None:
    env, run_dir = server.create_key("no-test-set", PLANNED), tmp_path / "run"
    config = write_experiment(tmp_path / "own.toml")
    done = run("distill", "run", config, "--teacher", server.url, "--out", run_dir, env=env, timeout_s=150)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no test set") == 3
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["student_accuracy"] is None
    assert summary["agreement_images"] == 6
    assert (run_dir / "report.png").read_bytes().startswith(b"\x89PNG")
    again = run_json("distill", "evaluate", run_dir, "--json", env=env)
    assert again["agreement"] == summary["agreement"]
    refused = run("distill", "evaluate", run_dir, "--teacher-answers", config, env=env)
    assert refused.returncode == 2
    assert "the run has no evaluation.dataset" in refused.stderr
