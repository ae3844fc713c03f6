"""Machines that may be taken away: which to ask for, when, and what to do when one goes.

Nothing here knows Ray, Dagster or SQL. Who asks a cluster for a machine, and who writes down
what was decided, belongs elsewhere.
"""
