"""Files on disk: atomic writes, and a reader of model files that trusts nothing."""
