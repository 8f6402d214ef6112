"""Programs that would run code when torch reads them: each is refused, and the code is never run.

The first test shows that torch.export.load does run such code, or there would be nothing to refuse.
"""

import io
import json
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from teacher_server.teachers.bundle import BundleError
from teacher_server.teachers.importing import import_bundle
from teacher_server.teachers.model_file import ModelFileError
from teacher_server.teachers.program_archive import sanitised_program
from tests.teacher_server.teachers.models import export, order_for, rewrite_archive, rewrite_program, small_network


@pytest.fixture(scope="module")
def program() -> bytes:
    return export(small_network())


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "the-code-was-run"


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def with_member(program: bytes, name: str, content: bytes) -> bytes:
    return rewrite_archive(program, lambda found, old: content if found == name else old)


def with_sample_inputs(program: bytes, marker: Path) -> bytes:
    return with_member(program, "data/sample_inputs/model.pt", saved(((Touch(marker),), {})))


def with_raw_pickle(program: bytes, marker: Path) -> bytes:
    return with_member(program, "data/sample_inputs/model.pt", pickle.dumps(Touch(marker)))


def with_pickled_weight(program: bytes, marker: Path) -> bytes:
    def change(name: str, content: bytes) -> bytes:
        if name == "data/weights/weight_0":
            return saved(Touch(marker))
        if name.endswith("model_weights_config.json"):
            config = json.loads(content)
            config["config"]["conv.weight"]["use_pickle"] = True
            return json.dumps(config).encode()
        return content

    return rewrite_archive(program, change)


def with_constant(program: bytes, path_name: str, content: bytes) -> bytes:
    entry = {"path_name": path_name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"evil": entry}}).encode()
    changed = with_member(program, "data/constants/model_constants_config.json", config)
    return rewrite_archive_adding(changed, f"data/constants/{path_name}", content)


def rewrite_archive_adding(content: bytes, name: str, member: bytes) -> bytes:
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/{name}", member)
    return out.getvalue()


def with_old_weights(program: bytes, marker: Path) -> bytes:
    return rewrite_archive_adding(program, "data/weights/model.pt", saved({"conv.weight": Touch(marker)}))


def with_guard(program: bytes, marker: Path) -> bytes:
    def change(content: dict[str, Any]) -> None:
        content["guards_code"] = [f"__import__('pathlib').Path({str(marker)!r}).touch() is None"]

    return rewrite_program(program, change)


def with_size(program: bytes, marker: Path) -> bytes:
    def change(content: dict[str, Any]) -> None:
        values = content["graph_module"]["graph"]["tensor_values"]
        size = f"__import__('pathlib').Path({str(marker)!r}).touch() or Integer(2)"
        next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": size, "hint": {"as_int": 2}}}

    return rewrite_program(program, change)


def with_operator(target: str) -> Callable[[bytes, Path], bytes]:
    def make(program: bytes, marker: Path) -> bytes:
        def change(content: dict[str, Any]) -> None:
            node = content["graph_module"]["graph"]["nodes"][0]
            node["target"] = target
            node["inputs"] = [{"name": "", "arg": {"as_string": f"touch {marker}"}, "kind": 1}]

        return rewrite_program(program, change)

    return make


def with_tree(tree: dict[str, Any]) -> Callable[[bytes, Path], bytes]:
    def make(program: bytes, marker: Path) -> bytes:
        def change(content: dict[str, Any]) -> None:
            signature = content["graph_module"]["module_call_graph"][0]["signature"]
            signature["in_spec"] = json.dumps([1, tree])

        return rewrite_program(program, change)

    return make


def with_name(program: bytes, marker: Path) -> bytes:
    name = f"x=__import__('pathlib').Path({str(marker)!r}).touch()"

    def change(content: dict[str, Any]) -> None:
        text = json.dumps(content).replace('"images_nchw"', json.dumps(name))
        content.clear()
        content.update(json.loads(text))

    return rewrite_program(program, change)


def with_library(program: bytes, marker: Path) -> bytes:
    return rewrite_archive_adding(program, "data/aotinductor/model/wrapper.so", b"\x7fELF")


ATTACKS: dict[str, tuple[Callable[[bytes, Path], bytes], str]] = {
    "sample inputs": (with_sample_inputs, "data/sample_inputs/model.pt is a pickle of more than tensors"),
    "sample inputs, raw": (with_raw_pickle, "data/sample_inputs/model.pt is a pickle of more than tensors"),
    "a weight": (with_pickled_weight, "'conv.weight' is stored as a pickle"),
    "a constant": (lambda p, m: with_constant(p, "tensor_0", saved(Touch(m))), "'evil' is stored as a pickle"),
    "an opaque object": (
        lambda p, m: with_constant(p, "opaque_obj_0", pickle.dumps(Touch(m))),
        "'evil' is stored as a pickle",
    ),
    "a custom object": (
        lambda p, m: with_constant(p, "custom_obj_0", pickle.dumps(Touch(m))),
        "'evil' is stored as a pickle",
    ),
    "weights as older torch wrote them": (with_old_weights, "data/weights/model.pt is a pickle, as older versions"),
    "a size": (with_size, "is not evaluated; allowed is arithmetic on numbers and symbols"),
    "os.system": (with_operator("torch.os.system"), "the operator 'torch.os.system' is not run"),
    "torch.load": (with_operator("torch.load"), "the operator 'torch.load' is not run"),
    "a file operator": (with_operator("torch.ops.aten.from_file.default"), "from_file.default' is not run"),
    "a caller": (with_operator("_operator.methodcaller"), "the operator '_operator.methodcaller' is not run"),
    "an operator of another library": (with_operator("torch.ops.mine.op.default"), "allowed are torch's own"),
    "a factory": (
        with_tree({"type": "collections.defaultdict", "context": "{}", "children_spec": []}),
        "inputs or outputs are a 'collections.defaultdict'",
    ),
    "an enum": (
        with_tree({"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "os:x"}]', "children_spec": []}),
        "a form that is not only names",
    ),
    "a name in generated source": (with_name, "allowed are letters, digits, _ . and -"),
    "a shared library": (with_library, "is compiled code (AOTInductor), which is not run"),
}


def test_torch_itself_runs_what_is_in_sample_inputs(program: bytes, marker: Path, tmp_path: Path) -> None:
    file = tmp_path / "evil.pt2"
    file.write_bytes(with_sample_inputs(program, marker))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.load(file)
    assert marker.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_program_that_is_more_than_data_is_refused_and_nothing_of_it_is_run(
    program: bytes, marker: Path, tmp_path: Path, attack: str
) -> None:
    make, says = ATTACKS[attack]
    file = tmp_path / "evil.pt2"
    file.write_bytes(make(program, marker))
    with pytest.raises(BundleError) as caught:
        import_bundle(order_for(file), tmp_path / "bundle")
    assert says in str(caught.value)
    assert str(file) in str(caught.value)
    assert not marker.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil.pt2"], "nothing half-written either"


def test_guards_are_left_out_and_never_executed(program: bytes, marker: Path, tmp_path: Path) -> None:
    file = tmp_path / "guarded.pt2"
    file.write_bytes(with_guard(program, marker))
    import_bundle(order_for(file), tmp_path / "bundle")
    assert not marker.exists()


def test_a_sound_program_is_loaded_without_any_unpickling(
    program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = sanitised_program(program)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (torch._C, "_pickle_load_obj")):
        monkeypatch.setattr(module, name, refuse)
    assert torch.export.load(io.BytesIO(archive)).example_inputs is None


@pytest.mark.parametrize("kept", [4, 100, 1000, -100, -1])
def test_a_truncated_program_is_refused(program: bytes, kept: int) -> None:
    with pytest.raises(ModelFileError):
        sanitised_program(program[:kept])


def test_one_changed_bit_of_the_weights_is_an_error_that_names_them(program: bytes) -> None:
    """What a bad disk or download makes: the directory is whole, a member is not."""
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/weights/weight_0"))
        weight = archive.read(name)
    assert program.count(weight) == 1
    damaged = program.replace(weight, bytes([weight[0] ^ 1]) + weight[1:])
    with pytest.raises(ModelFileError, match=r"data/weights/weight_0 is damaged: Bad CRC-32"):
        sanitised_program(damaged)


def test_an_encrypted_member_is_an_error_that_names_it(program: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        member = next(one for one in archive.infolist() if one.filename.endswith("data/weights/weight_0"))
    damaged = bytearray(program)
    for flags in (member.header_offset + 6, program.rfind(member.filename.encode()) - 46 + 8):
        damaged[flags] |= 1
    with pytest.raises(ModelFileError, match=r"data/weights/weight_0 is damaged: .* is encrypted"):
        sanitised_program(bytes(damaged))


# Deeper than the check can follow, and in the first case not deeper than json can read.
@pytest.mark.parametrize("depth", [600 if sys.version_info < (3, 12) else 1100, 100_000])
def test_a_deeply_nested_program_is_refused(program: bytes, depth: int) -> None:
    nested = ', "x": ' + "[" * depth + "]" * depth + "}"

    def change(name: str, content: bytes) -> bytes:
        return content.rstrip()[:-1] + nested.encode() if name.startswith("models/") else content

    with pytest.raises(ModelFileError, match=r"nested more deeply|maximum recursion depth"):
        sanitised_program(rewrite_archive(program, change))


def test_a_compressed_archive_is_refused_before_it_is_unpacked(program: bytes) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/models/model.json", b" " * 10_000_000)
    with pytest.raises(ModelFileError, match="is compressed"):
        sanitised_program(out.getvalue())


def test_two_programs_in_one_archive_are_refused(program: bytes) -> None:
    with pytest.raises(ModelFileError, match="holds 2 programs"):
        sanitised_program(rewrite_archive_adding(program, "models/other.json", b"{}"))
