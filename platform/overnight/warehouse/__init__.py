"""Postgres, where people read the result: connect, stage, publish."""
