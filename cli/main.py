"""The `takeone` command and its groups. Help needs no settings.

Exit codes: 0 done, 1 nothing to do or a part does not answer, 2 wrong usage.
"""

import click

from cli.dev import token
from cli.dispatches import dispatches, pause, resume
from cli.doctor import doctor
from cli.erasure import erase, export
from cli.jobs import hash_value, jobs


@click.group("takeone", help="Look after Take One.")
def main() -> None:
    """Every command is in a file of its own."""


for _command in (dispatches, doctor, hash_value, jobs, pause, resume, token):
    main.add_command(_command)
for _command in (erase, export):
    jobs.add_command(_command)

if __name__ == "__main__":
    main()
