"""The states of all random generators, as tensors for safetensors."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def read_random_states() -> dict[str, Tensor]:
    """Return the state of each generator: Python's int64 (625,), NumPy's int64 (626,), torch's uint8."""
    _, keys, _ = random.getstate()
    _, words, position, *_ = np.random.get_state()
    states = {
        "python": torch.tensor(keys),
        "numpy": torch.from_numpy(np.append(words, position).astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Restore states that `read_random_states` returned; those of CUDA only if CUDA is available."""
    random.setstate((3, tuple(states["python"].tolist()), None))
    *words, position = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(words, dtype=np.uint32), position, 0, 0.0))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
