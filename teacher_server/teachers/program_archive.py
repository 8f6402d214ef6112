"""A torch.export archive (``.pt2``) made harmless before torch reads it.

``torch.export.load`` is not safe on its own: sample inputs, and weights or constants that are marked so, are
unpickled; guards are Python text that is executed; symbolic sizes go through sympy's ``eval``; operators, enums and
factories are looked up by name in whole modules; node names end up in generated source; compiled code is loaded as a
shared library. So the archive is read here, every part that can only be data is checked, every part that inference
does not need is left out, and a new archive is written from what remains. Torch never sees the original.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from teacher_server.teachers.model_file import ModelFileError
from teacher_server.teachers.symbolic_sizes import require_size_expression

# Member names below the archive's one folder; X is the program's name.
_PROGRAM = re.compile(r"models/([A-Za-z0-9_]+)\.json")
_SHARED_LIBRARIES = "data/aotinductor/"
_PAYLOAD_CONFIGS = {
    "data/weights/": "data/weights/{}_weights_config.json",
    "data/constants/": "data/constants/{}_constants_config.json",
}
_SAMPLE_INPUTS = "data/sample_inputs/{}.pt"
_PAYLOAD_NAME = re.compile(r"(weight|tensor)_[0-9]+")

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]*")  # no quote, bracket or space: nothing to break out of source text with
_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims)\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|torch\.sym_(int|float|max|min|not|ite|sqrt|sum)"
    r"|math\.(ceil|floor|trunc|sqrt|pow)"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
_FILE_OPERATORS = ("torch.ops.aten.from_file.", "torch.ops.aten.save.", "torch.ops.aten.load.")
_TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")

Json = Any


def sanitised_program(content: bytes) -> bytes:
    """An archive that holds the program and its weights and nothing that torch would execute or unpickle.

    Raises ModelFileError when ``content`` is not a whole archive of one program, when a part of it is a pickle of
    more than tensors, and when any text in it could be more than data.
    """
    try:
        with _opened(content) as archive:
            members = _members(archive, len(content))
            name = _program_name(members)
            program = _parsed(archive, members[f"models/{name}.json"])
            cleaned = {"models/model.json": json.dumps(_cleaned_program(program)).encode()}
            for folder, pattern in _PAYLOAD_CONFIGS.items():
                config_name = pattern.format(name)
                if f"{folder}{name}.pt" in members or config_name not in members:
                    raise ModelFileError(
                        f"{folder}{name}.pt is a pickle, as older versions of torch wrote it, and never loaded. Save "
                        "the program again with torch.export.save of a newer one"
                    )
                config = _parsed(archive, members[config_name])
                cleaned[pattern.format("model")] = json.dumps(_cleaned_config(config)).encode()
                for payload in {entry["path_name"] for entry in config["config"].values()}:
                    if folder + payload not in members:
                        raise ModelFileError(f"{folder}{payload} is missing")
                    cleaned[folder + payload] = _content(archive, members[folder + payload])
            if sample_inputs := members.get(_SAMPLE_INPUTS.format(name)):
                _require_tensors_only(_content(archive, sample_inputs), sample_inputs.filename)
            cleaned[_SAMPLE_INPUTS.format("model")] = b""  # torch unpickles what is there; nothing is there
    except RecursionError as error:  # json reads deeper than what checks it
        raise ModelFileError("its parts are nested more deeply than in any program") from error
    return _written(cleaned)


def _opened(content: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"not a whole torch.export archive: {error}") from error


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Every member below the archive's one folder. Nothing may be larger than the file it came in."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        _, _, name = member.filename.partition("/")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise ModelFileError(f"{member.filename} is compressed; torch.export.save writes it as it is")
        if name in members:
            raise ModelFileError(f"{member.filename} is there twice")
        if name.startswith(_SHARED_LIBRARIES):
            raise ModelFileError(
                f"{member.filename} is compiled code (AOTInductor), which is not run; save the program itself with "
                "torch.export.save"
            )
        members[name] = member
    return members


def _program_name(members: dict[str, zipfile.ZipInfo]) -> str:
    found = [match[1] for name in members if (match := _PROGRAM.fullmatch(name))]
    if len(found) != 1:
        raise ModelFileError(f"holds {len(found)} programs ({', '.join(found[:5])}); one is allowed")
    return found[0]


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, RuntimeError, OSError, ValueError, EOFError) as error:  # damaged, or encrypted
        reason = str(error).replace(repr(member), "it")
        raise ModelFileError(f"{member.filename} is damaged: {reason}") from error


def _parsed(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Json:
    try:
        parsed = json.loads(_content(archive, member))
    except ModelFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{member.filename} is damaged: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelFileError(f"{member.filename} is damaged: not a JSON object")
    return parsed


def _require_tensors_only(content: bytes, name: str) -> None:
    """Sample inputs are dropped in any case; one that holds more than tensors says what the file is."""
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # the restricted unpickler has no one kind of error
        called = re.search(r"GLOBAL ([\w.]+)", str(error))  # what the restricted unpickler would not call
        what = f"it calls {called[1]}" if called else "it is no archive of tensors"
        raise ModelFileError(
            f"{name} is a pickle of more than tensors ({what}), which is never loaded. Where you trust the file: "
            "program = torch.export.load(FILE); program.example_inputs = None; torch.export.save(program, NEW_FILE)"
        ) from error


def _cleaned_config(config: Json) -> Json:
    """Weights or constants, each with its raw bytes in a member of its own; pickled ones are refused."""
    try:
        for name, entry in config["config"].items():
            if entry["use_pickle"] or not _PAYLOAD_NAME.fullmatch(entry["path_name"]):
                raise ModelFileError(
                    f"{name!r} is stored as a pickle ({str(entry['path_name'])[:60]}), which is never loaded; only "
                    "plain tensors are allowed, no custom objects and no tensor subclasses"
                )
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"the list of weights is damaged: {error!r}") from error
    return _checked(config)


def _cleaned_program(program: Json) -> Json:
    try:
        module = program["graph_module"]
        roots = [entry for entry in module["module_call_graph"] if entry["fqn"] == ""]
    except (KeyError, TypeError) as error:
        raise ModelFileError(f"the program is damaged: {error!r}") from error
    needed = module | {"metadata": {}, "treespec_namedtuple_fields": {}, "module_call_graph": roots}
    return _checked(program | {"graph_module": needed, "guards_code": []})


def _checked(value: Json, key: str = "") -> Json:
    """A copy on the CPU without metadata, every text of which is of its key's form; raises ModelFileError."""
    if isinstance(value, dict):
        if value.keys() == {"type", "index"}:
            return {"type": "cpu", "index": None}  # whatever device it was exported on; it is moved after loading
        return {
            _text(name, "name"): {} if name == "metadata" else _checked(inner, name) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_checked(inner, key) for inner in value]
    return _text(value, key) if isinstance(value, str) else value


def _text(text: str, key: str) -> str:
    check = _CHECKS.get(key)
    if check is not None:
        check(text)
    elif not _IDENTIFIER.fullmatch(text):
        raise ModelFileError(f"{key} is {text[:80]!r}; allowed are letters, digits, _ . and -")
    return text


def _require_target(text: str) -> None:
    if not _TARGETS.fullmatch(text) or text.startswith(_FILE_OPERATORS):
        raise ModelFileError(
            f"the operator {text[:80]!r} is not run; allowed are torch's own (torch.ops.aten) and arithmetic"
        )


def _require_tree(text: str) -> None:
    try:
        protocol, tree = json.loads(text)
        _require_subtree(tree)
    except ModelFileError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError("the form of the inputs or outputs is damaged") from error
    if protocol != 1:
        raise ModelFileError(f"the form of the inputs or outputs has protocol {protocol!r}; allowed is 1")


def _require_subtree(tree: Json) -> None:
    if tree["type"] not in _TREE_TYPES:
        raise ModelFileError(
            f"inputs or outputs are a {str(tree['type'])[:80]!r}; allowed are tensors in tuples, lists and dicts"
        )
    context = None if tree["context"] is None else json.loads(tree["context"])
    if context is not None and not (isinstance(context, list) and all(isinstance(name, str) for name in context)):
        raise ModelFileError("inputs or outputs have a form that is not only names")
    for child in tree["children_spec"]:
        _require_subtree(child)


def _allow_any(_: str) -> None:
    """Constants that the operators take as strings; torch writes them into source text by ``repr``."""


_CHECKS: dict[str, Callable[[str], None]] = {
    "target": _require_target,
    "as_operator": _require_target,
    "expr_str": require_size_expression,
    "in_spec": _require_tree,
    "out_spec": _require_tree,
    "as_string": _allow_any,
    "as_strings": _allow_any,
    "torch_version": _allow_any,
}


def _written(members: dict[str, bytes]) -> bytes:
    from torch.export.pt2_archive import PT2ArchiveWriter  # seconds that servers of other formats need not wait

    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for name, content in members.items():
            writer.write_bytes(name, content)
    return buffer.getvalue()
