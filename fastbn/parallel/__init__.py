"""Threads of ours, and of others: how many, and how they work together."""
