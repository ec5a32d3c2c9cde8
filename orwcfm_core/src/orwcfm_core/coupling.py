"""Which noise is paired with which sample; samples and their weights never move."""

from __future__ import annotations

import torch
from torch import Tensor

from orwcfm_core.errors import UserError

__all__ = ["couple", "optimal_transport"]


def couple(name: str, x_0: Tensor, x_1: Tensor) -> Tensor:
    """Order noise so that row i belongs to sample i.

    Args:
        name: `independent` (as it comes) or `optimal-transport`.
        x_0: Noise, `(B, *)`.
        x_1: Samples, `(B, *)`.

    Returns:
        The noise, permuted, `(B, *)`.
    """
    return x_0 if name == "independent" else optimal_transport(x_0, x_1)


def optimal_transport(x_0: Tensor, x_1: Tensor) -> Tensor:
    """Permute noise to minimise `sum |x_0 - x_1|^2` over the batch, leaving samples where they are.

    An assignment, not a plan that is sampled from: drawing pairs would reorder the samples as well, and each would
    be trained with another one's weight. Samples that are equal, as the draws of one are, keep the order of their
    noise: any other costs the same, and rounding would choose among them.

    References:
        Improving and generalizing flow-based generative models with minibatch optimal transport (Tong et al., 2023),
        arXiv:2302.00482

    Args:
        x_0: Noise, `(B, *)`.
        x_1: Samples, `(B, *)`.

    Returns:
        The noise in its new order, `(B, *)`.

    Raises:
        UserError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as e:
        raise UserError("train.coupling: optimal-transport needs scipy; pip install 'orwcfm-core[ot]'") from e
    cost = torch.cdist(x_1.flatten(1).cpu().double(), x_0.flatten(1).cpu().double()).square()
    order = torch.from_numpy(linear_sum_assignment(cost.numpy())[1])
    _, same = x_1.flatten(1).cpu().unique(dim=0, return_inverse=True)
    # Places in x_0, 0 to B - 1, by sample and ascending within each.
    ordered = order[(same * len(order) + order).argsort()]
    order[same.argsort(stable=True)] = ordered
    return x_0[order.to(x_0.device)]
