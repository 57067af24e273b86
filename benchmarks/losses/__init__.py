"""The losses against each other and against those of other packages, in one run.

``python -m benchmarks.losses --help``; docs/benchmarks.md says what is measured and how.
"""
