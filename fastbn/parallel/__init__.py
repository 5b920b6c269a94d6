"""Threads: fastbn's teams, the pools of numba and of other libraries, and how many to use."""
