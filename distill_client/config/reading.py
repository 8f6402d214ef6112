"""How an experiment's file is read, and what is said of its faults."""

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill_client.config.run import RunConfig
from distill_client.errors import ConfigError
from shared.datasets import FOLDER_PREFIX


def load_config(path: Path) -> RunConfig:
    """Read and validate a TOML file; paths in it that are not absolute are below the file's own folder.

    Raises ConfigError naming the key, the value and what is allowed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    try:
        return RunConfig.model_validate(_with_absolute_paths(content, path.resolve().parent))
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(faults_of(error))) from error


def _with_absolute_paths(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    resolved = dict(content)
    for section in ("pool", "evaluation"):
        if not isinstance(content.get(section), dict):
            continue
        values = dict(content[section])
        for key in {"folder", "file"} & values.keys():
            if isinstance(values[key], str):
                values[key] = str(folder / os.path.expanduser(values[key]))
        dataset = values.get("dataset")
        if isinstance(dataset, str) and dataset.startswith(FOLDER_PREFIX):
            values["dataset"] = FOLDER_PREFIX + str(folder / os.path.expanduser(dataset.removeprefix(FOLDER_PREFIX)))
        resolved[section] = values
    return resolved


def faults_of(error: ValidationError) -> list[str]:
    """What is wrong with a TOML file's content, one sentence per key, with the value that was given."""
    faults = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        given = "" if fault["type"] in ("missing", "value_error") else f" (given: {fault['input']!r})"
        faults.append(f"{key}: {fault['msg'].removeprefix('Value error, ')}{given}")
    return faults
