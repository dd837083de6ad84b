"""Take One at work: an embedded stack, a reference orchestrator and a demonstration."""
