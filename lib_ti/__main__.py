"""`python -m lib_ti`."""

import sys

from lib_ti.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
