"""The endpoints: thin, no logic. Each parses, asks the spine or the ledger, and renders."""
