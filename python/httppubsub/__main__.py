"""``python -m httppubsub`` is the command ``httppubsub``."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from httppubsub._binary import find_binary


def main() -> NoReturn:
    """Become the command."""
    try:
        binary = find_binary()
    except FileNotFoundError as error:
        sys.exit(str(error))
    os.execv(binary, [binary, *sys.argv[1:]])


if __name__ == "__main__":
    main()
