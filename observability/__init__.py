"""Logs, metrics and traces. What merely reports never stops the work."""
