"""docs/server.md says of every kind of bad file and bundle what the commands really say."""

from pathlib import Path

from tests.teacher_server.teachers.bad_bundles import table

SERVER_DOC = Path(__file__).parents[3] / "docs" / "server.md"


def test_the_documented_table_is_what_the_commands_say() -> None:
    documented = SERVER_DOC.read_text()
    assert [row for row in table().splitlines() if row not in documented] == []
