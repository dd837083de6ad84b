"""Redis: jobs, claims, projects, the index of claims in flight, and the feed of changes."""
