"""What happens to a ledger as a whole: made, opened, migrated, backed up, restored, given a new signing key."""
