"""Where every published row came from, in SQL (promise 7)."""
