"""Files on disk: written as a whole, and read with care."""
