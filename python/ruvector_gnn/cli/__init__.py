"""The command line `ruvector-gnn`.

Exit codes: 0 done, 2 bad input (one line on standard error says what), 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence

from ruvector_gnn.cli.parser import parser
from ruvector_gnn.errors import RuvectorError

BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    >>> main(["info", "/nowhere/at/all"])
    2
    """
    options = parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (RuvectorError, OSError) as error:
        return _refuse(str(error))
    except MemoryError as error:
        return _refuse(f"out of memory: {error}")
    except KeyboardInterrupt:
        print("ruvector-gnn: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _refuse(reason: str) -> int:
    print(f"ruvector-gnn: error: {' '.join(reason.split())}", file=sys.stderr)
    return BAD_INPUT
