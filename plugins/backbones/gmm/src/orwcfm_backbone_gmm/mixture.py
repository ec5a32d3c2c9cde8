"""A mixture of Gaussians and the flow that carries noise to it, in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["GaussianMixture", "place_means"]


class GaussianMixture:
    """A mixture of isotropic Gaussians of equal width, `x_1 ~ sum_k w_k N(mu_k, s^2 I)`.

    On the path `x_t = (1-t) x_0 + t x_1` with `x_0 ~ N(0, I)`, everything is Gaussian given the component k:

        x_t | k        ~ N(t mu_k, sigma_t^2 I),                      sigma_t^2 = (1-t)^2 + t^2 s^2
        E[u_t | x_t, k] = mu_k + c_t (x_t - t mu_k),  u_t = x_1 - x_0,  c_t = (t s^2 - (1-t)) / sigma_t^2
        v(t, x)        = E[u_t | x_t = x] = sum_k p_k(t, x) E[u_t | x, k]
        p_k(t, x)      = softmax_k( log w_k - |x - t mu_k|^2 / (2 sigma_t^2) )

    Everything is elementwise arithmetic in the dtype of `x`, which autocast leaves alone.

    References:
        Flow Matching for Generative Modeling (Lipman et al., 2023), arXiv:2210.02747

    Args:
        means: `(K, d)`.
        std: Standard deviation s of every component, above 0.
        weights: Shares of the components, `(K,)`, at least 0, not all 0; normalised here. None means equal shares.
    """

    def __init__(self, means: Tensor, std: float, weights: Tensor | None = None) -> None:
        shares = torch.ones(len(means), dtype=torch.float64) if weights is None else weights.double()
        if means.ndim != 2 or shares.shape != means.shape[:1]:
            raise ValueError(f"expected means (K, d) and weights (K,), got {(*means.shape,)} and {(*shares.shape,)}")
        if std <= 0 or (shares < 0).any() or not 0 < shares.sum() < torch.inf:
            raise ValueError(f"expected std above 0 and weights at least 0, not all 0, got {std} and {shares.tolist()}")
        self.means = means.double()
        self.std = std
        self.weights = shares / shares.sum()

    def to(self, device: torch.device) -> GaussianMixture:
        """Move means and weights to a device."""
        # Where there is no float64, as on Apple's GPUs, float32 has to do.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.means, self.weights = self.means.to(device, dtype), self.weights.to(device, dtype)
        return self

    def reweighted(self, factors: Tensor) -> GaussianMixture:
        """The density `w(x) q(x)`, normalised, where the weight w is constant within each component.

        Args:
            factors: Weight of each component, `(K,)`, at least 0.
        """
        return GaussianMixture(self.means, self.std, self.weights * factors.double())

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """The marginal velocity `v(t, x) = E[x_1 - x_0 | x_t = x]`.

        Args:
            t: Time in [0, 1], `()` or `(B,)`.
            x: `(B, d)`.

        Returns:
            `(B, d)`, in the dtype of `x`.
        """
        s, mu = _column(t, x), self.means.to(x)
        c_t = (s * self.std**2 - (1 - s)) / self._variance(s)
        mean = (self.responsibilities(t, x)[..., None] * mu).sum(1)
        return mean + c_t * (x - s * mean)

    def responsibilities(self, t: Tensor, x: Tensor) -> Tensor:
        """Which component a point on a path belongs to, `p_k(t, x)`.

        Args:
            t: Time in [0, 1], `()` or `(B,)`.
            x: `(B, d)`.

        Returns:
            Probabilities, `(B, K)`.
        """
        return self._log_joint(t, x).softmax(1)

    def posterior(self, x: Tensor) -> Tensor:
        """Which component a sample `(B, d)` belongs to: probabilities, `(B, K)`."""
        return self.responsibilities(x.new_ones(()), x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Logarithm of the density of the mixture at `(B, d)`: `(B,)`."""
        normaliser = 0.5 * x.shape[1] * math.log(2 * math.pi * self.std**2)
        return self._log_joint(x.new_ones(()), x).logsumexp(1) - normaliser

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw `(n, d)` independent samples.

        Args:
            n: How many.
            generator: Source of randomness, on the device of the mixture.
            dtype: Of the samples.
        """
        k = self.weights.multinomial(n, replacement=True, generator=generator)
        shape = (n, self.means.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=dtype, device=self.means.device)
        return self.means.to(dtype)[k] + self.std * noise

    def _log_joint(self, t: Tensor, x: Tensor) -> Tensor:
        """`log w_k - |x - t mu_k|^2 / (2 sigma_t^2)`, `(B, K)`."""
        s = _column(t, x)
        distance = (x[:, None] - s[..., None] * self.means.to(x)).square().sum(2)
        return self.weights.to(x).log() - distance / (2 * self._variance(s))

    def _variance(self, s: Tensor) -> Tensor:
        """`sigma_t^2`."""
        return (1 - s) ** 2 + (s * self.std) ** 2


def place_means(dim: int, components: int, radius: float) -> Tensor:
    """Means at equal distances on a circle in the first two dimensions, or on a line if there is one, `(K, d)`."""
    if dim == 1:
        return torch.linspace(-radius, radius, components, dtype=torch.float64)[:, None]
    angle = 2 * math.pi * torch.arange(components, dtype=torch.float64) / components
    means = torch.zeros(components, dim, dtype=torch.float64)
    means[:, :2] = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    return means


def _column(t: Tensor, x: Tensor) -> Tensor:
    """Time as `(1, 1)` or `(B, 1)` in the dtype of `x`."""
    return t.to(x).reshape(-1, 1)
