"""Shared set-up: few threads, since tests are tiny and machines are shared."""

import torch

torch.set_num_threads(1)
