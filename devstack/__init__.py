"""Real processes on one machine, started and stopped together: for the demo, the tests and the benchmark."""
