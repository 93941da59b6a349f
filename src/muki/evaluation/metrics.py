"""Metrics of predicted distributions, with gold labels and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

CALIBRATION_BINS = 15


def classification_metrics(probabilities: ArrayLike, gold: NDArray[np.int64], labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro-F1, expected calibration error, figures per class, confusion matrix.

    Args:
        probabilities: shape (n, C).
        gold: index of the gold label, shape (n,).
        labels: names of the C labels. Macro-F1 is the mean over those that occur in `gold` or are predicted.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    predicted = p.argmax(axis=-1)
    indices = list(range(len(labels)))
    precision, recall, f1, support = precision_recall_fscore_support(gold, predicted, labels=indices, zero_division=0.0)
    return {
        "n": len(gold),
        "accuracy": accuracy(predicted, gold),
        "accuracy_interval": list(accuracy_interval(predicted == gold)),
        "macro_f1": float(f1_score(gold, predicted, average="macro", zero_division=0.0)),
        "macro_f1_interval": list(macro_f1_interval(confusion_matrix(gold, predicted, labels=indices))),
        "expected_calibration_error": expected_calibration_error(p, gold),
        "calibration": calibration_bins(p, gold),
        "per_class": {
            label: {
                "precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]), "n": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion_matrix": confusion_matrix(gold, predicted, labels=indices).tolist(),
    }  # fmt: skip


def accuracy(predicted: ArrayLike, gold: ArrayLike) -> float:
    """Share of equal entries, in [0, 1]."""
    return float(np.mean(np.asarray(predicted) == np.asarray(gold)))


def accuracy_interval(correct: ArrayLike) -> tuple[float, float]:
    """95 % interval of the mean of `correct` (booleans, shape (n,)) over texts: Wilson's, made for few texts too."""
    c = np.asarray(correct, dtype=bool)
    interval = binomtest(int(c.sum()), len(c)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def paired_difference(
    first: ArrayLike, second: ArrayLike, resamples: int = 2000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """How much more often the second of two classifiers is right on the same texts, with its 95 % interval.

    Paired bootstrap over texts: what makes a text hard for both cancels, so that the interval is narrower than those of
    the two accuracies. Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap.

    Args:
        first: whether the first is right on each text, booleans, shape (n,).
        second: the same of the second, for the same texts in the same order.
        resamples: how many are drawn.
        seed: of the draws.

    Returns:
        accuracy of the second minus accuracy of the first, in [−1, 1], and the ends of its interval. An interval
        without 0 is more than chance.
    """
    difference = float((np.asarray(second, dtype=np.int64) - np.asarray(first, dtype=np.int64)).mean())
    low, high = np.quantile(resampled_differences(first, second, resamples, seed), [0.025, 0.975])
    return difference, (float(low), float(high))


def resampled_differences(
    first: ArrayLike, second: ArrayLike, resamples: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """What `paired_difference` would be on other texts, as the paired bootstrap draws them; shape (resamples,)."""
    differences = np.asarray(second, dtype=np.int64) - np.asarray(first, dtype=np.int64)
    n = len(differences)
    # A resample of differences that are −1, 0 or 1 only depends on how often each is drawn.
    shares = [(differences == value).mean() for value in (-1, 0, 1)]
    counts = np.random.default_rng(seed).multinomial(n, shares, resamples)
    return np.asarray((counts[:, 2] - counts[:, 0]) / n)


def macro_f1_interval(confusion: NDArray[np.int64], resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of macro-F1, by resampling texts.

    Args:
        confusion: rows gold, columns predicted, shape (C, C). A resample only changes its counts.
        resamples: how many are drawn.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    cells = np.flatnonzero(confusion)
    shares = confusion.reshape(-1)[cells] / confusion.sum()
    gold, predicted = np.divmod(cells, len(confusion))
    values = []
    for counts in rng.multinomial(int(confusion.sum()), shares, resamples):
        support, answers = (np.bincount(which, counts, len(confusion)) for which in (gold, predicted))
        right = np.bincount(gold[gold == predicted], counts[gold == predicted], len(confusion))
        there = support + answers > 0
        values.append(float((2 * right[there] / (support + answers)[there]).mean()))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def expected_calibration_error(
    probabilities: ArrayLike, gold: NDArray[np.int64], bins: int = CALIBRATION_BINS
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the top probability, in [0, 1].

    Source: Guo et al. 2017, arXiv 1706.04599.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    return calibration_error(p.max(axis=-1), p.argmax(axis=-1) == gold, bins)


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """The same for any statement that says how likely it is right, in [0, 1]; of probabilities and booleans, (n,)."""
    counts, said, right = _binned(np.asarray(confidence, dtype=np.float64), np.asarray(correct), bins)
    return float(np.abs(said - right).sum() / counts.sum())


def calibration_bins(
    probabilities: ArrayLike, gold: NDArray[np.int64], bins: int = CALIBRATION_BINS
) -> list[dict[str, float]]:
    """Mean confidence, accuracy and number of texts of each bin of the top probability that holds a text."""
    p = np.asarray(probabilities, dtype=np.float64)
    counts, confidence, correct = _binned(p.max(axis=-1), p.argmax(axis=-1) == gold, bins)
    return [
        {"confidence": float(confidence[i] / n), "accuracy": float(correct[i] / n), "n": int(n)}
        for i, n in enumerate(counts)
        if n
    ]


def _binned(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Texts, summed confidence and right answers of each of the equal-width bins, each of shape (bins,)."""
    which = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return (
        np.bincount(which, minlength=bins).astype(np.int64),
        np.bincount(which, confidence, bins).astype(np.float64),
        np.bincount(which, correct, bins).astype(np.float64),
    )


def routing_accuracy(scores: ArrayLike, gold: NDArray[np.int64], columns: Sequence[Sequence[int]]) -> float:
    """Share of texts whose teacher of the largest score (or weight) knows the gold label, in [0, 1].

    Args:
        scores: routing scores (or weights), shape (n, N).
        gold: index of the gold label in the union, shape (n,).
        columns: each teacher's columns in the union.
    """
    return float(rightly_routed(scores, gold, columns).mean())


def rightly_routed(scores: ArrayLike, gold: NDArray[np.int64], columns: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Whether the teacher of the largest score knows the gold label, shape (n,); arguments as `routing_accuracy`."""
    best = np.asarray(scores).argmax(axis=-1)
    knows = np.stack([np.isin(gold, list(own)) for own in columns], axis=-1)  # (n, N)
    found: NDArray[np.bool_] = np.take_along_axis(knows, best[:, None], axis=-1)[:, 0]
    return found


def quantiles(values: ArrayLike) -> dict[str, float]:
    """Five quantiles and the mean."""
    v = np.asarray(values, dtype=np.float64)
    names = ("min", "q25", "median", "q75", "max")
    return {
        **dict(zip(names, map(float, np.quantile(v, [0, 0.25, 0.5, 0.75, 1])), strict=True)),
        "mean": float(v.mean()),
    }
