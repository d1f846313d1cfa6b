"""mol: joint recognition of micro-expressions, optical flow and facial landmarks (MOL, IEEE TPAMI 2025)."""

from mol.model import MOL, MOLOutput

__all__ = ["MOL", "MOLOutput"]
