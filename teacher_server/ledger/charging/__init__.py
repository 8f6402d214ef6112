"""An answer and its charge; the answer given again; what was spent, summed."""
