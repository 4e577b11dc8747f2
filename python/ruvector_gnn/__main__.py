"""`python -m ruvector_gnn`: the command line."""

import sys

from ruvector_gnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
