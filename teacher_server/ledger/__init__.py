"""Keys, budgets, events and their chain: the only SQL of the server."""
