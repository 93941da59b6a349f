"""The report: what a person asks about a finished run, answered on one self-contained page."""
