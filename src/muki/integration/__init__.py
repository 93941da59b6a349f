"""Integration: pure functions from routing weights and teacher distributions to target and instance weight."""
