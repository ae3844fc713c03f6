"""Workers on Ray: warm engines, splits, and what happens when a machine goes away.

This is the only package that imports Ray, and it does so where it runs.
"""
