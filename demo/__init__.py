"""A demonstration of Take One on a local stack, and the reference orchestrator."""
