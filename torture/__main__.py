"""``python -m torture``."""

import sys

from torture.campaign import main

if __name__ == "__main__":
    sys.exit(main())
