"""Reward-ranked fine-tuning."""

from __future__ import annotations

from orwcfm_core.orw_cfm import OrwCfm

__all__ = ["Raft"]


class Raft(OrwCfm):
    """Samples of the policy, the best of each prompt, and plain flow matching on those.

    It is `OrwCfm` with weights that are equal for the best and 0 for the others (`--weighting top-k`), a hard copy as
    sampling policy and no regularizer, which the plugin suggests:

        E_{x_1 ~ p_old, t, x_0}[ w(x_1) |v(t, x_t) - u_t|^2 ],   w = 1 / fraction if x_1 is among the best, else 0

    References:
        RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment (Dong et al., 2023), arXiv:2304.06767
    """
