"""Engines: who runs the pending (teacher, shard) pairs."""
