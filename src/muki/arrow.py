"""Arrays as Parquet columns of fixed-size vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def vectors(array: NDArray[Any]) -> pa.FixedSizeListArray:
    """An array of shape (n, A) or (n, A, B) … as a column of n vectors (of vectors) of its own float type."""
    column = pa.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    """The array that `vectors` made a column of."""
    values = column.combine_chunks()
    shape = [len(values)]
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    result: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(shape)
    return result
