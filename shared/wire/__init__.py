"""The wire between teacher and client: contracts, error codes, image bytes, digests and the event chain."""
