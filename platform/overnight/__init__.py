"""Overnight: batch inference whose results can be trusted in the morning.

`overnight.job` declares what is inferred, `overnight.run` works one partition through, and
`overnight.orchestration` puts jobs into Dagster. Importing this package loads none of them.
"""
