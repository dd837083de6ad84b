"""What the tests bring with them: a client, a scriptable orchestrator, a faulty network."""
