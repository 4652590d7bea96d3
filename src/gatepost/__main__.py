"""`gatepost`, and `python -m gatepost`."""

import sys


def main() -> None:
    """Run the command line; the exit status is the command's."""
    from gatepost.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
