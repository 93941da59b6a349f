"""Experiments: data sets × settings × methods × seeds, in one harness, and the tables that come of it."""
