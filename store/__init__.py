"""Redis: jobs, claims, projects, lists and indexes of them, and notifications of changes."""
