"""``python -m mol`` is ``mol``."""

import sys

from mol.cli import main

if __name__ == "__main__":
    sys.exit(main())
