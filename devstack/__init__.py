"""Starts and stops real processes on one machine, for the demo, the tests and the benchmark."""
