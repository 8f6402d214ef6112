"""Whether a ledger is sound: walked, compared, exported."""
