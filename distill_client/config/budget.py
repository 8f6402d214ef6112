"""How the budget is spent: all of what is planned, or in rounds until another one no longer pays."""

from typing import Literal

from distill_client.config.section import Section


class BudgetConfig(Section):
    """``budget_images`` bounds what is spent under either policy."""

    policy: Literal["spend-all", "until-flat"] = "spend-all"
