"""The `takeone` command: what operators and developers do by hand."""
