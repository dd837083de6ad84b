"""Logs, metrics and traces. A failure of these never stops the service."""
