"""What does the arithmetic, behind one protocol: see `base`."""
