"""molkernels: fully-connected convolution, channel correspondence convolution and cost volume for PyTorch.

    import molkernels as mk
    block = mk.F5C(channels=128, size=16, k=4)      # (N, 128, 16, 16) → (N, 128, 16, 16)

`molkernels.functional` has the same operators as functions of tensors, `molkernels.reference` as formulas.
"""

from molkernels import functional
from molkernels.devices import self_test, tune, verdicts
from molkernels.dispatch import available_backends, backend, explain, standard_operators
from molkernels.extension import build_info
from molkernels.modules import CCC, F5C, FCC, CostVolume
from molkernels.version import __version__ as __version__

__all__ = [
    "CCC",
    "F5C",
    "FCC",
    "CostVolume",
    "available_backends",
    "backend",
    "build_info",
    "explain",
    "functional",
    "self_test",
    "standard_operators",
    "tune",
    "verdicts",
]
