"""Where a ledger is kept: SQLite or PostgreSQL, and transactions on either."""
