"""Which teachers are served now: versions of one name side by side, exchanged while requests are being answered."""

from collections.abc import Iterable

from shared.wire.contracts import InputSpec
from teacher_server.teachers.teacher import Teacher


class Catalogue:
    """Teachers by name and version. Every method may be called from any thread.

    Of several versions of a name the one given last is the default. What is served is exchanged as a whole: whoever
    has a Teacher in hand goes on with it, whoever asks afterwards gets the new one.
    """

    def __init__(self, teachers: Iterable[Teacher]) -> None:
        """Raise ValueError when two teachers have the same name and version."""
        self._inputs: dict[str, list[InputSpec]] = {}
        self._by_name: dict[str, dict[str, Teacher]] = {}
        self.replace(teachers)

    def replace(self, teachers: Iterable[Teacher]) -> None:
        """Serve these from now on. Raises ValueError, and changes nothing, when two have one name and version."""
        by_name: dict[str, dict[str, Teacher]] = {}
        for teacher in teachers:
            versions = by_name.setdefault(teacher.name, {})
            if teacher.version in versions:
                raise ValueError(
                    f"two bundles are teacher {teacher.name!r} version {teacher.version!r}; clients know by name and "
                    "version what answered them, so change one of the two in its teacher.toml"
                )
            versions[teacher.version] = teacher
        for name, versions in by_name.items():
            known = self._inputs.setdefault(name, [])
            known += [teacher.input for teacher in versions.values() if teacher.input not in known]
        self._by_name = by_name  # one assignment: nobody sees half of it

    def find(self, name: str, version: str | None = None) -> Teacher | None:
        """The teacher of that name, by default its default version; None when it is not served."""
        versions = self._by_name.get(name, {})
        return versions.get(version) if version is not None else next(reversed(versions.values()), None)

    def versions(self, name: str) -> list[str]:
        """The versions of that name that are served, the default last."""
        return list(self._by_name.get(name, {}))

    def all(self) -> list[Teacher]:
        """Every teacher, by name; the versions of a name in the order they were given."""
        return [teacher for _, versions in sorted(self._by_name.items()) for teacher in versions.values()]

    def inputs_ever(self, name: str) -> list[InputSpec]:
        """The inputs that teachers of that name have or had since the start, by which old requests are recognised."""
        return list(self._inputs.get(name, []))
