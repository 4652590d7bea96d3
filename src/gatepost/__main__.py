"""`gatepost`, and `python -m gatepost`.

`serve` is the supervisor: it is started without loading anything else, for it stays small and lives for ever.
"""

import sys

from gatepost.supervised import supervise


def main() -> None:
    """Run the command line; the exit status is the command's."""
    words = sys.argv[1:]
    if words[:1] == ["serve"] and len(words) == 3 and words[1] in ("-c", "--config"):
        sys.exit(supervise(words[2]))
    from gatepost.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
