"""`python -m molkernels`: what was built, and which backend each operator would use on this machine."""

from __future__ import annotations

import json

import torch

from molkernels import build_info, explain


def main() -> None:
    """Print `build_info()`, and `explain()` for each kind of device found."""
    print(json.dumps(build_info(), indent=2))
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        print(explain(device=device))


if __name__ == "__main__":
    main()
