"""The student's losses: pure functions on tensors, natural logarithms, computed in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def integration_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of `m(x) · KL( g(·|x) ‖ q(·|x) )`, in nats, at temperature 1.

    Args:
        logits: the student's, shape (batch, C); any float type, computed in float32.
        target: g, shape (batch, C), rows sum to 1; zeros are allowed.
        weight: m, shape (batch,); mean 1 over the pool.

    Source: Li et al. 2022 (arXiv 2210.05230); there the weights are not normalised.
    """
    return (weight * _divergence(target, logits.float().log_softmax(dim=-1))).mean()


def decoupled_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, groups: Sequence[Sequence[int]]
) -> torch.Tensor:
    """`integration_loss` with the weights on its routing term alone.

    By the chain rule, `KL( g ‖ q ) = KL( g(groups) ‖ q(groups) ) + Σ_G g(G) KL( g(·|G) ‖ q(·|G) )`: which teacher's
    classes, and which of them. Only the first is in doubt where teachers conflict, so only the first is weighted:
    mean of `m(x) · routing term + within-group terms`.

    Args:
        logits: the student's, shape (batch, C).
        target: g, shape (batch, C), rows sum to 1.
        weight: m, shape (batch,).
        groups: a partition of the C columns.

    Source: identity of golden supervision; decoupling of distillation losses: Zhao et al., CVPR 2022.
    """
    log_q = logits.float().log_softmax(dim=-1)
    mass = torch.stack([target[:, list(own)].sum(dim=-1) for own in groups], dim=-1)
    log_mass = torch.stack([log_q[:, list(own)].logsumexp(dim=-1) for own in groups], dim=-1)
    routing = _divergence(mass, log_mass)
    within = _divergence(target, log_q) - routing
    return (weight * routing + within).mean()


def within_group_loss(logits: torch.Tensor, teachers: torch.Tensor, columns: Sequence[Sequence[int]]) -> torch.Tensor:
    """UHC: mean over the batch of `Σ_i KL( p_i ‖ q(·|L_i) )`, with `q(c|L_i) = q(c) / Σ_{L_i} q`.

    Nothing says which teacher is right, so nothing compares classes of different teachers.

    Args:
        logits: the student's, shape (batch, C).
        teachers: the teachers' distributions p_i side by side, shape (batch, Σ C_i).
        columns: each teacher's columns in the union.

    Source: Vongkulbhisal et al., CVPR 2019 (Unifying Heterogeneous Classifiers with Distillation).
    """
    parts = torch.split(teachers, [len(own) for own in columns], dim=-1)
    divergences = [
        _divergence(p, logits[:, list(own)].float().log_softmax(dim=-1)) for p, own in zip(parts, columns, strict=True)
    ]
    return torch.stack(divergences).sum(dim=0).mean()


def squared_error(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean squared difference."""
    return torch.nn.functional.mse_loss(x.float(), y.float())


def maximum_mean_discrepancy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared MMD between two batches of vectors, (n, d) and (m, d), at least 0 up to rounding.

    The kernel is a sum of five Gaussians with bandwidths σ² · {1/4, 1/2, 1, 2, 4}, where σ² is the mean squared
    distance over all pairs of the joined batch.

    Source: Gretton et al. 2012; as used by Luo et al., IJCAI 2019 (CFL).
    """
    joined = torch.cat([x, y]).float()
    distances = torch.cdist(joined, joined).square()
    n = len(joined)
    width = distances.detach().sum() / max(1, n * n - n)
    scales = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0], device=x.device)
    kernel = torch.exp(-distances[None] / (scales[:, None, None] * width).clamp(min=1e-12)).sum(dim=0)
    k = len(x)
    return kernel[:k, :k].mean() + kernel[k:, k:].mean() - 2 * kernel[:k, k:].mean()


def _divergence(p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (torch.xlogy(p, p) - p * log_q).sum(dim=-1)
