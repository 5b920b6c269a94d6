"""Measurements beside the peers, in one process, on the same work."""
