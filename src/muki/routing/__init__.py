"""Routing: pure functions from teacher outputs to routing weights."""
