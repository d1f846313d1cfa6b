"""Whether data is complete, undamaged and the clips of a protocol: ``mol check-data``.

Modules:

    settings   what can be set
    findings   what a check finds
    manifests  checks of what manifests list, and against a protocol
    pictures   checks of folders and pictures
    caches     checks of caches, row by row
    run        all checks
    report     what the command prints and writes
"""

from mol.data.check.findings import Finding
from mol.data.check.run import check_data, run_check_data
from mol.data.check.settings import CheckDataConfig

__all__ = ["CheckDataConfig", "Finding", "check_data", "run_check_data"]
