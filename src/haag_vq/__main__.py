"""``python -m haag_vq``: the command line, where no ``haag-vq`` is on the path."""

import sys

from haag_vq.cli import main

if __name__ == "__main__":
    sys.exit(main())
