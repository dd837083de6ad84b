"""Fault injection on real processes: `python -m tests.chaos --seconds 180 --seed 1`.

Runs the Procfile's processes with production settings, injects faults into them and their connections on a
schedule derived from the seed, lets the service heal, and then checks the recorded history job by job.
"""
