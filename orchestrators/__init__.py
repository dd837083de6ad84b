"""How a dispatch reaches the orchestrator, and what its answer means."""
