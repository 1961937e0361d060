"""Heat maps as few bytes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def quantised(attention: Tensor) -> NDArray[np.uint8]:
    """Attention `(N, views, rows, columns)` in bytes, 255 for the largest value of each of the N; all 0 for one without any."""
    largest = attention.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(attention.dtype).tiny)
    values: NDArray[np.uint8] = (255 * attention / largest).round().to(torch.uint8).cpu().numpy()
    return values
