"""``python -m plandsl`` is `planc`, and the installed `planc` starts here too."""

import sys

from plandsl import ending


def run() -> int:
    """Run `planc` as a process. Gives its exit status."""
    ending.watch()
    from plandsl.cli import main

    return ending.run_orderly(main)


if __name__ == "__main__":
    sys.exit(run())
