"""Reading a teacher's TOML file, and the label map beside it where it names one."""

import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from distill_client.errors import ConfigError

LABEL_MAP_KEY, LABEL_MAP_FILE_KEY = "label_map", "label_map_file"


def read_teacher_toml(path: Path) -> dict[str, Any]:
    """A teacher's file, with the label map of the file that ``label_map_file`` names put into it.

    Raises ConfigError for a file that cannot be read, or is not TOML.
    """
    content = _read(path)
    named = content.get(LABEL_MAP_FILE_KEY)
    if not isinstance(named, str):
        return content
    beside = path.resolve().parent / Path(named).expanduser()
    if LABEL_MAP_KEY in content:
        raise ConfigError(f"{path}: {LABEL_MAP_KEY} and {LABEL_MAP_FILE_KEY} are both given; give one of them")
    found = _read(beside)
    inlined = {key: value for key, value in content.items() if key != LABEL_MAP_FILE_KEY}
    return {**inlined, LABEL_MAP_KEY: found.get(LABEL_MAP_KEY, found)}


def self_contained_text(path: Path) -> str:
    """A teacher's file as a run keeps it: its own text, or written anew where it needed another file."""
    if LABEL_MAP_FILE_KEY in _read(path):
        return tomli_w.dumps(read_teacher_toml(path))
    return path.read_text(encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
