"""Benchmarks of fastbn and its peers on the same work, mostly in one process."""

SUITES = ("kernels", "step", "calls", "predict", "estimators", "torch", "startup")
