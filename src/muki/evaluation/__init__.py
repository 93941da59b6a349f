"""Evaluation: metrics with labels and without, the report, the model card."""
