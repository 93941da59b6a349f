"""The student's loss, on tensors."""

from __future__ import annotations

import torch


def integration_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of `m(x) · KL( g(·|x) ‖ q(·|x) )`, in nats, at temperature 1.

    Args:
        logits: the student's, shape (batch, C); any float type, computed in float32.
        target: g, shape (batch, C), rows sum to 1; zeros are allowed.
        weight: m, shape (batch,); mean 1 over the pool.

    Source: Li et al. 2022 (arXiv 2210.05230); there the weights are not normalised.
    """
    log_q = logits.float().log_softmax(dim=-1)
    divergence = (torch.xlogy(target, target) - target * log_q).sum(dim=-1)
    return (weight * divergence).mean()
