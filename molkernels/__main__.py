"""`python -m molkernels`: what was built, and which backend each operator would use on this machine.

python -m molkernels --self-test [--device cuda]    # known-answer tests of all kernels; exit status 1 if one fails
python -m molkernels --tune [--device cuda]         # measures the order of the backends and keeps it
"""

from __future__ import annotations

import argparse
import json
import sys

import torch

from molkernels import build_info, explain, self_test, tune


def main(arguments: list[str] | None = None) -> int:
    """Print `build_info()`, and `explain()` for each kind of device found; before it, test or measure on request."""
    parser = argparse.ArgumentParser(prog="python -m molkernels", description="What was built, and what runs where.")
    parser.add_argument("--self-test", action="store_true", help="run known-answer tests of all kernels")
    parser.add_argument("--tune", action="store_true", help="measure the order of the backends and keep it")
    parser.add_argument("--device", help="such as cpu or cuda:1; by default all")
    options = parser.parse_args(arguments)
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    devices = kinds if options.device is None else (options.device,)
    print(json.dumps(build_info(), indent=2))
    verdicts = self_test(options.device) if options.self_test else []
    for verdict in verdicts:
        print(verdict)
    for device in devices:
        if options.tune:
            tune(device)
        print(explain(device=device))
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
