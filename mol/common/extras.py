"""Optional dependencies, imported where they are used, with an error that says how to install them."""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

from mol.common.errors import MissingExtraError
from mol.common.stopping import held


def install_command(extra: str) -> str:
    """The command that adds the extra to this installation."""
    from molkernels import installation  # here: it imports PyTorch, which processes that read pictures don't need

    return installation.install_command(extra)


def require(module: str, extra: str) -> Any:
    """Import `module`, or raise an error that says how to install it.

    Args:
        module: the import name, such as ``"cv2"``.
        extra: the extra of this project that installs it, such as ``"data"``.
    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        with held():
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is needed and cannot be imported ({error}). Install it with: {install_command(extra)}"
        ) from error


def installed_file(distribution: str, file: str, extra: str) -> Path:
    """Path of a data file inside an installed distribution; the package is not imported.

    Raises:
        MissingExtraError: the distribution, or the file in it, is not installed.
    """
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(file)))
    except metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise MissingExtraError(f"{file} of {distribution} is not installed. Install it with: {install_command(extra)}")
    return path
