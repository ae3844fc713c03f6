"""Spot machines: notices, prices, and when to use them."""
