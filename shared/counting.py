"""Numbers of things, in words for people."""


def counted(number: int, thing: str) -> str:
    """``1 event``, ``2 events``: for things whose plural ends in s."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
