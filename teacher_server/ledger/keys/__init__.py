"""API keys and what each may do: secrets, policies, limits, expiry, alerts."""
