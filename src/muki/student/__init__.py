"""The student: union head, data, loss, training."""
