"""How much of its budget a key has spent, in the steps that its owner is told of."""

ALERT_PERCENTS = (50, 80, 95, 100)


def passed_percents(*, spent: int, granted: int) -> list[int]:
    """The steps reached, lowest first; none of an empty budget. Budgets may be larger than floats are exact."""
    return [percent for percent in ALERT_PERCENTS if granted > 0 and spent * 100 >= percent * granted]


def passed_percent(*, spent: int, granted: int) -> int:
    """The highest step reached; 0 for none."""
    return max(passed_percents(spent=spent, granted=granted), default=0)
