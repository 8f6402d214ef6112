"""One torch thread for every test: tests, servers and clients share two cores, and waiting threads spin."""

import torch

torch.set_num_threads(1)
