"""Files: atomic writes, and a reader of model files that checks everything."""
