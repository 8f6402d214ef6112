"""Invented images: blends of real ones, and samples of a small generative model trained on the pool."""
