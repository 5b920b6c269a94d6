"""Benchmarks for airspeed velocity: see docs/benchmarks.md."""
