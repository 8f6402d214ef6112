"""The paper's comparison, audited: which runs there are, how one is made, and the page made of their results.

`benchmarks/paper.py` runs them and `benchmarks/results_page.py` writes what came of them.
"""
