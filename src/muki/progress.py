"""Progress of long work: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

logger = logging.getLogger(__name__)

_SILENT_SECONDS = 2.0  # shorter work shows nothing
_LINE_SECONDS = 15.0


class Advance(Protocol):
    """Call with the number of units that were finished."""

    def __call__(self, done: int, /) -> object: ...


@contextmanager
def progress(title: str, total: int | None, unit: str, done: int = 0) -> Iterator[Advance]:
    """Show how far `total` units (None: unknown) are, with rate and remaining time; `done` were finished earlier.

    On a terminal a bar; otherwise log lines at INFO, the first after two seconds, then one each quarter of a minute.
    """
    if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
        from tqdm.auto import tqdm

        with tqdm(
            total=total, initial=done, desc=title, unit=f" {unit}", delay=_SILENT_SECONDS, dynamic_ncols=True
        ) as bar:
            yield bar.update
        return

    start = last = time.monotonic()
    done_so_far = done_at_last = done

    def advance(finished: int) -> None:
        nonlocal last, done_so_far, done_at_last
        done_so_far += finished
        now = time.monotonic()
        first = last == start and now - start > _SILENT_SECONDS
        if first or now - last > _LINE_SECONDS:
            rate = (done_so_far - done_at_last) / (now - last)  # of the time since the last line: speeds change
            if total is None:
                logger.info("%s: %d %s, %.3g/s", title, done_so_far, unit, rate)
            else:
                left = clock((total - done_so_far) / rate) if rate else "?"
                logger.info("%s: %d/%d %s, %.3g/s, %s left", title, done_so_far, total, unit, rate, left)
            last, done_at_last = now, done_so_far

    yield advance
    if last > start:
        logger.info("%s: %d %s in %s", title, done_so_far - done, unit, clock(time.monotonic() - start))


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
