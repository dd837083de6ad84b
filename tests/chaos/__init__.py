"""Real processes, real kills: `python -m tests.chaos --seconds 180 --seed 1`.

Runs the Procfile's processes as production does, breaks everything between and in them by a schedule
that the seed decides, lets it heal, and then checks the recorded history job by job.
"""
