"""The owner's model file to a bundle that serves: three formats, what is detected, what is said, what is refused."""

import hashlib
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import nn

from benchmarks.imports import largest_differences
from teacher_server.app import create_app
from teacher_server.ledger.keys.issuing import create_key
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.bundle import BundleError, load_bundle
from teacher_server.teachers.checking import check_bundle
from teacher_server.teachers.classifier import ClassifierFault, load_classifier
from teacher_server.teachers.importing import import_bundle
from teacher_server.teachers.onnx_model import require_self_contained
from teacher_server.teachers.teacher import load_teacher, load_teachers
from tests.teacher_server.support import PROBABILITIES, Holder
from tests.teacher_server.teachers.importing import IMAGES_NHWC, OWN, answers, order, reference, refusal
from tests.teacher_server.teachers.models import (
    CLASSES,
    SmallNetwork,
    export,
    rewrite_program,
    small_network,
)

FILES = ("mine.safetensors", "mine.pt2", "mine.onnx", "external.onnx", "fixed1.pt2", "fixed4.onnx", "least3.pt2")


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_networks_own_probabilities(files: Path, tmp_path: Path, name: str) -> None:
    made = import_bundle(order(files / name), tmp_path / "bundle")
    np.testing.assert_allclose(answers(made), reference(), rtol=0, atol=1e-6)
    manifest = made.bundle.manifest
    assert (manifest.outputs, made.outputs_were) == ("logits", "detected")
    assert manifest.imported is not None
    assert manifest.imported.file == name
    assert manifest.imported.sha256 == hashlib.sha256((files / name).read_bytes()).hexdigest()
    assert manifest.imported.batch_difference <= 1e-5
    assert manifest.measured is None
    assert load_teacher(made.bundle.folder, device="cpu", trusted_networks=(OWN,)).test_accuracy is None
    checked = check_bundle(made.bundle.folder, trusted_networks=(OWN,))
    assert checked.trial.sample_images == 12


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fixed1.pt2", "it takes one image at a time"),
        ("fixed4.onnx", "it takes 4 images at least, so fewer are filled up"),
        ("least3.pt2", "it takes 3 images at least"),
        ("external.onnx", "the weights in external.onnx.data were copied into the model"),
    ],
)
def test_what_the_owner_should_know_is_said(files: Path, tmp_path: Path, name: str, says: str) -> None:
    assert any(says in note for note in import_bundle(order(files / name), tmp_path / "bundle").notes)
    assert import_bundle(order(files / "mine.pt2"), tmp_path / "other").notes == ()


def test_copied_weights_need_the_other_file_no_more(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "external.onnx"), tmp_path / "bundle")
    assert sorted(file.name for file in made.bundle.folder.iterdir()) == ["model.onnx", "teacher.toml"]
    require_self_contained((made.bundle.folder / "model.onnx").read_bytes())


def test_probabilities_get_no_second_softmax(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "softmax.pt2"), tmp_path / "bundle")
    assert (made.bundle.manifest.outputs, made.outputs_were) == ("probabilities", "detected")
    np.testing.assert_allclose(answers(made), reference(), rtol=0, atol=1e-6)


def test_the_owner_may_say_what_the_outputs_are(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.pt2", outputs="logits"), tmp_path / "told")
    assert (made.outputs_were, made.notes) == ("told", ())
    made = import_bundle(order(files / "softmax.pt2", outputs="logits"), tmp_path / "odd")
    assert made.notes == ("the outputs look like probabilities already; the softmax over them flattens every answer",)
    told = refusal(files / "mine.pt2", tmp_path, outputs="probabilities")
    assert "outputs is 'probabilities', but they go from -" in told


def test_outputs_that_stop_being_probabilities_are_never_given(tmp_path: Path) -> None:
    """The sample images cannot try everything; a row that is no distribution fails before it is charged."""

    class Odd(nn.Module):
        def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
            share = torch.where(images_nchw[:, 0, 0, 0] > 0.99, 0.7, 0.25)
            return torch.stack([share, share, share, 1 - 3 * torch.full_like(share, 0.25)], 1)

    file = tmp_path / "odd.pt2"
    file.write_bytes(export(Odd()))
    white = np.full((1, 16, 16, 3), 255, np.uint8)
    black = tmp_path / "black.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(black)
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    made = import_bundle(order(file, samples=(black,), **plain), tmp_path / "bundle")
    with pytest.raises(ClassifierFault, match="1 rows are no probabilities"):
        load_classifier(made.bundle).probabilities(white)


def test_a_network_in_training_mode_is_recognised(files: Path, tmp_path: Path) -> None:
    told = refusal(files / "training.pt2", tmp_path)
    assert "Was it exported in training mode" in told
    assert "Call model.eval() first" in told


class Sums(nn.Module):
    """Every answer is about the whole batch, which no export of a sound classifier is."""

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        rows = images_nchw.flatten(1)[:, : len(CLASSES)]
        return rows + rows.sum(0, keepdim=True)


class Nan(nn.Module):
    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        return torch.log(images_nchw.flatten(1)[:, : len(CLASSES)] - 3)


class Two(nn.Module):
    """Logits beside what else a network may give."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_network()

    def forward(self, images_nchw: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": images_nchw.mean((2, 3)), "logits": self.inner(images_nchw)}


def test_the_one_output_that_fits_is_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "two.pt2"
    file.write_bytes(export(Two().eval()))
    made = import_bundle(order(file), tmp_path / "bundle")
    np.testing.assert_allclose(answers(made), reference(), rtol=0, atol=1e-6)


class Unusual(nn.Module):
    """What real architectures do: constants, no_grad and autocast inside, sizes of the batch, hyphens in names."""

    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleDict({"block1-0": nn.Conv2d(3, 8, 3), "head": nn.Linear(8, len(CLASSES))})
        self.register_buffer("shift", torch.ones(3, 1, 1), persistent=False)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        rows = images_nchw.shape[0]
        with torch.no_grad():
            shifted = images_nchw * torch.tensor([[[0.5]], [[1.0]], [[2.0]]]) + self.shift
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            hidden = self.layers["block1-0"](shifted)
        pooled = hidden.reshape(rows, 8, -1).mean(-1)
        logits_nk: torch.Tensor = self.layers["head"](pooled) + 0 * torch.arange(rows)[:, None]
        return logits_nk


def test_what_real_architectures_do_is_taken(tmp_path: Path) -> None:
    network = Unusual().eval()
    file = tmp_path / "unusual.pt2"
    file.write_bytes(export(network))
    made = import_bundle(order(file, mean=(0.0,) * 3, std=(1.0,) * 3), tmp_path / "bundle")
    with torch.no_grad():
        images_nchw = torch.tensor(IMAGES_NHWC.transpose(0, 3, 1, 2).copy()).float() / 255
        expected = network(images_nchw).softmax(1).numpy()
    np.testing.assert_allclose(answers(made), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Sums(), "with the other images of its batch; allowed is 1e-05"),
        (Nan(), "rows are not finite"),
        (nn.Identity(), "answers 12 images with 12 x 3 x 16 x 16; allowed is one output of 12 x 4"),
        (nn.Flatten(), "answers 12 images with 12 x 768"),
    ],
    ids=["depends on the batch", "not finite", "no rows", "other classes"],
)
def test_a_network_that_cannot_serve_is_refused(tmp_path: Path, network: nn.Module, says: str) -> None:
    file = tmp_path / "bad.pt2"
    file.write_bytes(export(network.eval()))
    assert says in refusal(file, tmp_path)


@pytest.mark.parametrize("name", ["mine.pt2", "mine.onnx"])
def test_what_does_not_fit_the_file_is_refused(files: Path, tmp_path: Path, name: str) -> None:
    file = files / name
    assert "5, which is images x classes" in refusal(file, tmp_path, classes=(*CLASSES, "yak"))
    assert "but the input is 32x32x3 (H x W x C)" in refusal(file, tmp_path, input=(32, 32, 3))
    grey = {"input": (16, 16, 1), "mean": (0.5,), "std": (0.5,)}
    assert "but the input is 16x16x1 (H x W x C)" in refusal(file, tmp_path, **grey)
    assert "bring their network; leave --network out" in refusal(file, tmp_path, network="lenet5")
    assert "classes: Value error, 'cat' is there 2 times" in refusal(file, tmp_path, classes=("cat", "cat"))
    assert "input.mean.0: Input should be less than or equal to 1 (given: 124.0)" in refusal(
        file, tmp_path, mean=(124.0, 116.0, 104.0)
    )
    assert "name: " in refusal(file, tmp_path, name="Not A Name")


def test_a_state_dict_needs_a_network_that_it_fits(files: Path, tmp_path: Path) -> None:
    file = files / "mine.safetensors"
    assert "a state dict needs its network: --network" in refusal(file, tmp_path, network=None)
    told = refusal(file, tmp_path, network="torchvision:resnet18")
    assert "does not fit network.name torchvision:resnet18 with 4 classes" in told
    assert "conv.weight is not a tensor of the network" in told
    assert "there are" in refusal(file, tmp_path, network="torchvision:resnet19")


def test_the_owners_code_is_only_run_when_the_owner_says_so(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.safetensors"), tmp_path / "bundle")
    for trusted in ((), ("tests.teacher_server.teachers.models:other",)):
        with pytest.raises(
            BundleError, match=f"code that loading this bundle would run; allow it with --trust-network {OWN}"
        ):
            load_teacher(made.bundle.folder, device="cpu", trusted_networks=trusted)
    assert load_teacher(made.bundle.folder, device="cpu", trusted_networks=(OWN,)).version == "1"


def test_sample_images_of_the_owner_are_used_and_named_when_unfit(files: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        Image.fromarray(IMAGES_NHWC[index]).save(pictures / f"{index}.png")
    (pictures / "notes.txt").write_text("not a picture")
    made = import_bundle(order(files / "mine.pt2", samples=(pictures,)), tmp_path / "used")
    assert made.trial.sample_images == 3

    large = pictures / "large.png"
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(large)
    assert f"{large}: the picture has 24 x 20 pixels" in refusal(files / "mine.pt2", tmp_path, samples=(pictures,))
    stretched = order(files / "mine.pt2", samples=(pictures,), resize="stretch")
    assert import_bundle(stretched, tmp_path / "other").bundle.manifest.input.resize == "stretch"
    assert "cannot be decoded" in refusal(files / "mine.pt2", tmp_path, samples=(pictures / "notes.txt",))
    assert "no .png" in refusal(files / "mine.pt2", tmp_path, samples=(files,))


def test_the_same_answer_to_everything_is_remarked(tmp_path: Path) -> None:
    network = small_network()
    nn.init.zeros_(network.dense.weight)
    file = tmp_path / "flat.pt2"
    file.write_bytes(export(network))
    assert any(
        "every sample image gets the same answer" in n for n in import_bundle(order(file), tmp_path / "b").notes
    )


def test_a_program_that_torch_cannot_load_says_why_in_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def break_it(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.no_such_operator.default"

    file = tmp_path / "broken.pt2"
    file.write_bytes(rewrite_program((files / "mine.pt2").read_bytes(), break_it))
    told = refusal(file, tmp_path)
    assert f"torch {torch.__version__} cannot load this program: " in told
    assert "no_such_operator" in told
    assert "\n" not in told
    assert capsys.readouterr() == ("", "")
    assert caplog.text == ""


def test_all_three_are_served_over_http_with_the_same_answers(files: Path, tmp_path: Path, ledger_url: str) -> None:
    forms = ("safetensors", "pt2", "onnx")
    folders = [
        import_bundle(order(files / f"mine.{form}", version=form), tmp_path / form).bundle.folder for form in forms
    ]
    settings = TeacherSettings.load(bundles=tuple(folders), ledger=ledger_url)
    app = create_app(settings, load_teachers(folders, device="cpu", trusted_networks=(OWN,)))
    with closing(open_database(ledger_url, create=True)) as database:
        _, secret = create_key(database, name="ada", budget=100, disclosure=PROBABILITIES, expires_at=None)
    with TestClient(app) as client:
        holder = Holder(client, secret)
        for form in forms:
            response = holder.post_npy(IMAGES_NHWC, path=f"/v1/teachers/mine/versions/{form}/labels")
            assert response.json()["version"] == form
            np.testing.assert_allclose(response.json()["probabilities"], reference(), rtol=0, atol=2e-6)


def test_a_resnet18_answers_the_same_through_every_format() -> None:
    """What `benchmarks/imports.py` prints, for smaller images."""
    differences = largest_differences(32)
    assert set(differences) == {"safetensors", "pt2", "onnx"}
    assert max(difference for difference, _ in differences.values()) <= 1e-5


# --- what is written ----------------------------------------------------------------------------------------------


def test_a_bundle_that_is_there_is_only_replaced_when_asked(files: Path, tmp_path: Path) -> None:
    first = import_bundle(order(files / "mine.pt2"), tmp_path / "bundle")
    with pytest.raises(BundleError, match="already exists"):
        import_bundle(order(files / "softmax.pt2"), tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle") == first.bundle
    newer = replace(order(files / "softmax.pt2"), version="2")
    import_bundle(newer, tmp_path / "bundle", overwrite=True)
    assert load_bundle(tmp_path / "bundle").manifest.version == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_a_changed_bit_in_a_program_is_noticed(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.pt2"), tmp_path / "bundle")
    path = made.bundle.weights_path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="has SHA-256"):
        check_bundle(made.bundle.folder)


def test_the_class_count_of_a_written_bundle_is_checked(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.pt2"), tmp_path / "bundle")
    path = made.bundle.folder / "teacher.toml"
    path.write_text(path.read_text().replace('    "owl",\n', ""))
    with pytest.raises(BundleError, match="with 12 x 4; allowed is one output of 12 x 3"):
        check_bundle(made.bundle.folder)


def test_the_manifest_can_be_read_as_it_is_documented(files: Path, tmp_path: Path) -> None:
    made = import_bundle(order(files / "mine.onnx"), tmp_path / "bundle")
    content = json.loads(made.bundle.manifest.model_dump_json(exclude_none=True))
    assert content["weights"]["format"] == "onnx"
    assert set(content["imported"]) == {
        "file", "sha256", "outputs", "sample_images", "batch_difference", "versions",
    }  # fmt: skip
    assert "network" not in content


def test_our_network_is_the_one_of_the_file(files: Path) -> None:
    assert set(safetensors.torch.load_file(files / "mine.safetensors")) == set(SmallNetwork().state_dict())
