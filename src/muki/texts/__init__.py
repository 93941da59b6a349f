"""Texts: any source as a stream, cut into shards."""

from muki.texts.reading import (
    Columns as Columns,
    Text as Text,
    looks_like_a_file as looks_like_a_file,
    read as read,
    read_lines as read_lines,
)
from muki.texts.shards import (
    SHARD_ROWS as SHARD_ROWS,
    Shard as Shard,
    TextShards as TextShards,
    cut as cut,
    cutting as cutting,
    source_fingerprint as source_fingerprint,
)
