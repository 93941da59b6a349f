"""Matrices as Parquet columns of fixed-size vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def vectors(matrix: NDArray[Any]) -> pa.FixedSizeListArray:
    """A matrix of shape (n, C) as a column of n vectors of its own float type."""
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    """The matrix that `vectors` made a column of."""
    values = column.combine_chunks()
    result: NDArray[Any] = values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
    return result
