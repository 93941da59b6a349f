"""From stored teacher outputs to stored supervision, shard by shard; only scores of the whole pool are in memory."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from muki.files import digests, read_json, replacing, unchanged, write_json
from muki.formulas import Array, integrate_distributions
from muki.integration.pool import GoldRouter, ScoredPool
from muki.integration.router import Router, Routing
from muki.integration.store import SUMMARY, Supervision, save_supervision
from muki.integration.supervision import mean_one, one_hot, raw_weights
from muki.labels import LabelSpace
from muki.methods import Method
from muki.teachers.outputs import teacher_predictions

logger = logging.getLogger(__name__)

SUPERVISION_VERSION = 12  # raise when the numbers for the same scores and method change


def supervise(pool: ScoredPool, method: Method, folder: Path) -> str:
    """Write the supervision of all shards, unless the same lies there already.

    Args:
        pool: the texts' scores.
        method: how supervision is made.
        folder: where it goes; written whole or not at all.

    Returns:
        the fingerprint of this supervision.

    Raises:
        RunFolderError: scores are missing, damaged or stale.
    """
    key = pool.fingerprint(SUPERVISION_VERSION, method)
    known = read_json(folder / SUMMARY)
    if known is not None and known.get("fingerprint") == key and unchanged(folder, known["files"]):
        logger.info("supervision: reusing %d texts (same scores and method)", known["rows"])
        return key

    router = pool.router(method)
    routing, raw = route_pool(pool, router, method)
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_supervision(temporary, pool, router, routing, mean_one(raw), method)
        summary = {
            "fingerprint": key,
            "rows": len(routing.scores),
            "average_weight": float(raw.mean()),
            "lowest_score": float(routing.scores.min()),
            "findings": router.findings,
            **_temperatures_by_name(router, pool.space),
            "method": method.model_dump(),
            "files": digests(temporary, pool.shards),
        }
        write_json(temporary / SUMMARY, summary)
    logger.info("supervision: %d texts, %s", len(routing.scores), method.spelled_out())
    return key


def _temperatures_by_name(router: Router | GoldRouter, space: LabelSpace) -> dict[str, dict[str, float]]:
    """Each teacher's temperature by name, where the method looks for it."""
    if isinstance(router, GoldRouter) or not router.method.sharpens:
        return {}
    return {"teacher_temperature": dict(zip(space.columns, router.temperatures.tolist(), strict=True))}


def route_pool(pool: ScoredPool, router: Router | GoldRouter, method: Method) -> tuple[Routing, Array]:
    """The whole pool's routing, and how much each text counts before scaling, shape (n,)."""
    routed, predictions = [], []
    for number, outputs in enumerate(pool.outputs()):
        routed.append(router(outputs, pool.view(number) if pool.view else None))
        predictions.append(teacher_predictions(outputs, pool.space))
    routing = Routing.concatenate(routed)
    return routing, raw_weights(routing, np.concatenate(predictions), method)


def write_supervision(
    folder: Path, pool: ScoredPool, router: Router | GoldRouter, routing: Routing, weights: Array, method: Method
) -> None:
    """Write one file for each shard, from the whole pool's routing and instance weights, shape (n,)."""
    columns, n_labels = list(pool.space.columns.values()), len(pool.space.labels)
    start = 0
    for name, outputs in zip(pool.shards, pool.outputs(), strict=True):
        here = slice(start, start + len(outputs[0]))
        start = here.stop
        distributions = router.distributions(outputs)
        if isinstance(router, GoldRouter) and method.target == "gold":
            target = one_hot(router.gold(outputs), n_labels)
        else:
            target = integrate_distributions(routing.weights[here], distributions, columns, n_labels)
        part = Supervision(
            rows=outputs[0].rows,
            target=target.astype(np.float32),
            weight=weights[here].astype(np.float32),
            routing=routing.weights[here].astype(np.float32),
            scores=routing.scores[here].astype(np.float32),
            foreign=routing.foreign[here].astype(np.float32) if router.refinement else None,
            teachers=np.hstack(distributions).astype(np.float32) if method.objective == "uhc" else None,
            states=tuple(one.states for one in outputs if one.states is not None) if "states" in method.keep else (),
        )
        save_supervision(folder / name, part)
