"""The program ``mol``, also as ``python -m mol``."""

import sys

from mol.common.signals import exit_at_once, handle_stop_signals


def main() -> int:
    """Run the command line; a signal ends the program at once and in one line from here on."""
    handle_stop_signals(exit_at_once)
    from mol.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
