"""Numbers over the records of a comparison: means with intervals, paired differences, the recovered gap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from muki.evaluation.metrics import paired_difference, resampled_differences
from muki.experiments.measures import correct_of

Record = dict[str, Any]


def is_ceiling(record: Record) -> bool:
    """Whether a cell's method reads gold labels, and so does not compete; older records tell by the method's name."""
    return bool(record.get("ceiling", record["method"] in ("oracle", "supervised")))


def recovered_gap(method: float, vanilla: float, oracle: float) -> float | None:
    """`(method − vanilla KD) / (oracle − vanilla KD)`: 0 for vanilla KD, 1 for oracle routing; None where they meet."""
    return None if oracle - vanilla < 0.005 else (method - vanilla) / (oracle - vanilla)


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half of its 95 % interval over seeds (Student's t); None for one seed."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)), None
    return float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def difference(first: Sequence[Record], second: Sequence[Record]) -> tuple[float, float, float] | None:
    """The first method's accuracy minus the second's, and the 95 % interval of a paired bootstrap over test texts.

    The texts of all seeds that both methods have are joined, and the same texts are drawn for both. So the interval is
    for these seeds: how much other seeds would differ is what `mean_interval` estimates.

    Returns:
        difference, lower and upper end, each in [-1, 1]; None where no seed has both.
    """
    both = _paired(first, second)
    if both is None:
        return None
    value, (low, high) = paired_difference(both[1], both[0])
    return value, low, high


def better(first: Sequence[Record], second: Sequence[Record]) -> bool:
    """Whether at least 97.5 % of the differences that the paired bootstrap draws are positive."""
    both = _paired(first, second)
    return both is not None and bool((resampled_differences(both[1], both[0]) > 0).mean() >= 0.975)


def in_common(several: Sequence[Sequence[Record]]) -> list[list[Record]]:
    """Of each, the records of the seeds that all have."""
    seeds = set.intersection(*({record["seed"] for record in records} for records in several))
    return [[record for record in records if record["seed"] in seeds] for records in several]


def _paired(first: Sequence[Record], second: Sequence[Record]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Whether each is right on each test text of the seeds that both have; None without any."""
    others = {record["seed"]: record for record in second}
    shared = [(correct_of(record), correct_of(others[record["seed"]])) for record in first if record["seed"] in others]
    if not shared:
        return None
    return np.concatenate([one for one, _ in shared]), np.concatenate([other for _, other in shared])


# --- choosing records --------------------------------------------------------------------------------------------


def unique(values: Iterable[Any]) -> list[Any]:
    """Each value once, in order of first appearance."""
    return list(dict.fromkeys(values))


def chosen(records: Sequence[Record], **wanted: object) -> list[Record]:
    """The records with these values: `chosen(records, method="muki", data="ag_news")`."""
    return [record for record in records if all(record[key] == value for key, value in wanted.items())]


def values_of(records: Sequence[Record], key: str) -> list[float]:
    """A measure, of the records that have it."""
    return [record[key] for record in records if record.get(key) is not None]
