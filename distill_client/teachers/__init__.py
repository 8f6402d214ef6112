"""Whom answers are bought from, how, and the store that keeps every paid answer."""
