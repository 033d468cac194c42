"""Arrays of a Dataset that are computed when they are first read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing


class _Computed(BackendArray):
    def __init__(self, shape: tuple[int, ...], compute: Callable[[], np.ndarray]) -> None:
        self.shape, self.dtype = shape, np.dtype(float)
        self.compute = compute

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        basic = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, basic, self._read)

    def __deepcopy__(self, memo: dict[int, object]) -> _Computed:
        return self  # what it holds is made again at every reading, and refers to its holder

    def _read(self, key: tuple) -> np.ndarray:
        return self.compute()[key]


def computed(
    dims: tuple[str, ...], shape: tuple[int, ...], compute: Callable[[], np.ndarray]
) -> xr.Variable:
    """Return a variable of floats whose values are computed when they are read.

    Parameters
    ----------
    dims, shape : tuple
    compute : callable
        Returns the values, an array of that shape; called at each reading, so it is for
        ``compute`` to keep them.

    Examples
    --------
    >>> called = []
    >>> def values():
    ...     called.append(1)
    ...     return np.arange(6.0).reshape(2, 3)
    >>> data = xr.Dataset({"x": computed(("a", "b"), (2, 3), values)})
    >>> copied = data.copy()
    >>> len(called), float(copied["x"].isel(a=1).sum()), len(called)
    (0, 12.0, 1)
    """
    return xr.Variable(dims, indexing.LazilyIndexedArray(_Computed(shape, compute)))
