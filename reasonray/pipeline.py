"""The whole run: every stage in order."""
