"""Turns a few unlabelled images and a query budget into a small student, and proves what it spent."""
