"""How molkernels was installed, so that a message can say how to add an optional part to this installation.

The package index is named only if the installation came from one: otherwise the name may belong to somebody else there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

NAME = "molkernels"
_URL = ":/?&=@%~+$!*(),;"  # pip records a repository's address unquoted


def install_command(extra: str = "") -> str:
    """The command that adds an optional part to this installation.

    Args:
        extra: an extra of the distribution, such as ``"train"``; molkernels alone when empty.
    Returns:
        Such as ``pip install -e "/home/me/molkernels[train]"``, with quotes that every shell understands, also cmd.
    """
    return command_for(Path(__file__).parent.parent, extra)


def command_for(folder: Path, extra: str = "") -> str:
    """`install_command` for the package `molkernels` in `folder`, a checkout or a site-packages folder."""
    part = f"[{extra}]" if extra else ""
    checkout = Path(folder, NAME).resolve().parent
    if (checkout / "csrc" / "pep517.py").is_file():  # installed with -e, or only on sys.path
        return f'pip install -e "{checkout}{part}"'
    installed = next(iter(metadata.distributions(name=NAME, path=[str(folder)])), None)
    if installed is None:
        return f'pip install ".{part}" (in a checkout of {NAME})'
    source = _source(installed, part)
    if source is None:
        return " ".join(["pip install", *_requirements(installed, extra)])
    return f'pip install "{source}"'


def _source(installed: metadata.Distribution, part: str) -> str | None:
    """The pip argument that installs the same distribution again (PEP 610); None if it is unknown or gone."""
    recorded = installed.read_text("direct_url.json")
    if recorded is None:
        # An installer that used an index leaves its name and no URL; a wheel that was only unpacked has neither.
        return NAME + part if installed.read_text("INSTALLER") else None
    origin: dict[str, Any] = json.loads(recorded)
    url = urlsplit(origin["url"])
    address = origin["url"]
    if "vcs_info" in origin:
        if url.scheme == "file" and not url.netloc:  # pip requires a host
            address = address.replace("file://", "file://localhost", 1)
        address = f"{origin['vcs_info']['vcs']}+{quote(address, safe=_URL)}@{origin['vcs_info']['commit_id']}"
    elif url.scheme == "file":
        host = "" if url.netloc in ("", "localhost") else f"//{url.netloc}"
        path = Path(url2pathname(host + url.path))
        return f"{path}{part}" if path.exists() else None
    if "subdirectory" in origin:
        address += f"#subdirectory={origin['subdirectory']}"
    return f"{NAME}{part} @ {address}"


def _requirements(installed: metadata.Distribution, extra: str) -> Iterator[str]:
    """The requirements of the extra, each quoted, for a distribution that cannot be installed again."""
    for line in installed.requires or ():
        requirement, _, marker = line.partition(";")
        if not re.search(rf"""extra == ["']{re.escape(extra)}["']""", marker):
            continue
        others = re.fullmatch(rf"{NAME}\[(.+)\]", requirement.strip())
        if others is None:
            yield f'"{requirement.strip()}"'
        else:
            for other in others[1].split(","):
                yield from _requirements(installed, other)
