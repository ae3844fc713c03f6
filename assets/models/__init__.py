"""Models that travel with the repository, so that a first run needs no download."""
