"""Templates of requests: TOML or JSON whose texts hold placeholders such as ``{image_base64}``."""

import json
import re
from collections.abc import Collection, Iterator, Mapping

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_]*)\}")
_NESTING_MAX = 50

Json = object  # what json.dumps takes: dict, list, str, int, float, bool, None


def fill(template: Json, values: Mapping[str, object]) -> Json:
    """The template with its placeholders filled; a text that is but one placeholder becomes its value, as it is.

    ``{{`` and ``}}`` stand for braces.
    """
    if isinstance(template, str):
        whole = _PLACEHOLDER.fullmatch(template)
        if whole is not None and whole[1] is not None:
            return values[whole[1]]
        return fill_text(template, values)
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    return template


def fill_text(template: str, values: Mapping[str, object]) -> str:
    """A text with its placeholders filled, as a text whatever they are."""

    def filled(found: re.Match[str]) -> str:
        return found[0][0] if found[1] is None else str(values[found[1]])

    return _PLACEHOLDER.sub(filled, template)


def placeholders(template: Json) -> set[str]:
    """The names of all placeholders in a template."""
    return {name for _, text in _texts(template, "") for name in _names(text)}


def require_known(template: Json, known: Collection[str], key: str) -> None:
    """Raise ValueError, naming the key, for a placeholder that nothing fills and for what JSON cannot hold."""
    for where, text in _texts(template, key):
        for name in _names(text):
            if name not in known:
                raise ValueError(
                    f"{where} is {text!r}, and nothing fills {{{name}}}; known here are "
                    f"{', '.join(f'{{{each}}}' for each in sorted(known))} (write {{{{ and }}}} for plain braces)"
                )


def parse_template(template: Json, key: str) -> Json:
    """A template that may be JSON in a text, as what that holds. Raises ValueError, naming the key."""
    parsed = template
    if isinstance(template, str) and template.lstrip().startswith(("{", "[")):
        if _PLACEHOLDER.fullmatch(template.strip()):
            return template.strip()
        try:
            parsed = json.loads(template)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{key} begins like JSON and is none: {error}") from error
    for _ in _texts(parsed, key):
        pass  # finds what JSON cannot hold
    return parsed


def _names(text: str) -> list[str]:
    return [name for name in _PLACEHOLDER.findall(text) if name]


def _texts(template: Json, key: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every text in a template with the key that leads to it. Raises ValueError for what JSON cannot hold."""
    if depth > _NESTING_MAX:
        raise ValueError(f"{key} is nested deeper than {_NESTING_MAX} levels")
    if isinstance(template, str):
        yield key, template
    elif isinstance(template, dict):
        for name, value in template.items():
            yield from _texts(value, f"{key}.{name}", depth + 1)
    elif isinstance(template, list):
        for place, value in enumerate(template):
            yield from _texts(value, f"{key}[{place}]", depth + 1)
    elif template is not None and not isinstance(template, int | float):
        raise ValueError(f"{key} is a {type(template).__name__}, which JSON has not")
