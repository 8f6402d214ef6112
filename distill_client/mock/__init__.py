"""A mock teacher with faults, for people who write clients: `distill teacher mock`.

It answers in a vendor's shape, misbehaves as it is told to, and counts for each image how often it has charged it.
"""
