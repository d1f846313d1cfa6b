"""The version of the distribution. It is kept here, where pyproject.toml finds it without importing PyTorch."""

__version__ = "0.2.0"
