"""The few real images a run starts from: found, brought to the teacher's input, drawn, and kept for resumptions."""

from distill_client.pool.candidates import Candidates, pool_input, read_candidates
from distill_client.pool.drawing import Pool, draw_pool
from distill_client.pool.fit import PoolFit, measure_fit
from distill_client.pool.keeping import images_digest, keep_pool, read_kept_pool

__all__ = [
    "Candidates",
    "Pool",
    "PoolFit",
    "draw_pool",
    "images_digest",
    "keep_pool",
    "measure_fit",
    "pool_input",
    "read_candidates",
    "read_kept_pool",
]
