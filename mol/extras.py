"""Optional dependencies, imported where they are used, with an error that holds the line that installs them."""

from __future__ import annotations

import importlib
from typing import Any

from mol.errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """Import `module`, or say how to install it.

    Args:
        module: the import name, such as ``"cv2"``.
        extra: the extra of this project that brings it, such as ``"data"``.
    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is needed here and cannot be imported ({error}). "
            f'Install it with: pip install "molkernels[{extra}]"'
        ) from error
