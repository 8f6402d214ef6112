"""A key's chain: events, their signatures, and the refusals that it tells of."""
