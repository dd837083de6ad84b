"""No wheel is offered: it would put packages called `api` and `settings` into site-packages.

Take One runs from its checkout or its image (`pip install --editable .`). All else is in setup.cfg.
"""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel


class NoWheel(bdist_wheel):
    """Refuses. An editable install does not come by here."""

    def run(self) -> None:
        """Say what to do instead."""
        raise SystemExit(
            "Take One is not offered as a wheel: pip install --editable . in its checkout"
        )


setup(cmdclass={"bdist_wheel": NoWheel})
