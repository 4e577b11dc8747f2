"""SciPy, imported by the first call that needs it: it would take half the time of `import ruvector_gnn`."""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any

_BLAS_BYTES_PER_THREAD = 40 << 20


def import_sparse() -> Any:
    """Import `scipy.sparse`, and the linear algebra that comes with it.

    Raises
    ------
    MemoryError
        If there is too little address space for its OpenBLAS, which would ask for it for ever.
    """
    if "scipy.linalg" not in sys.modules:
        size = _BLAS_BYTES_PER_THREAD * ((os.cpu_count() or 1) + 1)
        try:
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except OSError:
            raise MemoryError(f"{size} bytes of memory can't be had, which SciPy needs to start") from None
    import scipy.linalg
    import scipy.sparse

    return scipy.sparse
