"""Benchmarks for airspeed velocity: docs/benchmarks.md tells how to run them."""
