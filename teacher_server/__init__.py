"""Hosts private image classifiers and sells their answers, every image charged to a key's budget."""
