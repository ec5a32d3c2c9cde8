"""Online reward-weighted fine-tuning of flow matching models with Wasserstein regularization: the core.

Importing this package imports neither torch nor any plugin; the numerics live in its modules.
"""
