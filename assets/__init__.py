"""The four inference jobs of this repository, their sources, models and demo data."""
