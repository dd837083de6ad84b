"""The `takeone` command. Its subcommands are in the other files of this package; help needs no settings.

Exit codes: 0 done, 1 refused, failed or incomplete, 2 wrong usage.
"""

import sys

import click

from cli.dispatches import dispatches, pause, resume
from cli.doctor import doctor
from cli.erasure import erase, export
from cli.jobs import hash_value, jobs
from cli.token import token

for _command in (erase, export):
    jobs.add_command(_command)
main = click.Group(
    "takeone",
    help="Operate Take One.",
    commands=[dispatches, doctor, hash_value, jobs, pause, resume, token],
)


def run() -> None:
    """Run a command; report output that cannot be written in one line."""
    if sys.stdout is None:  # closed, as by `>&-`: all output would be lost in silence
        sys.exit("Error: standard output is closed")
    try:
        main()
    except (OSError, UnicodeEncodeError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    run()
