"""Shared test tools: an API client, a scriptable orchestrator, a fault-injecting proxy, servers."""
