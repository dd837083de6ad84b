"""No wheel is offered: it would put packages called `api` and `settings` into site-packages.

Take One runs from its checkout or its image (`pip install --editable .`). `setup.cfg` names this to setuptools.
"""

from setuptools.command.bdist_wheel import bdist_wheel  # type: ignore[import-untyped]


class NoWheel(bdist_wheel):  # type: ignore[misc]
    """Refuses. An editable install does not come by here."""

    def run(self) -> None:
        """Say what to do instead."""
        raise SystemExit(
            "Take One is not offered as a wheel: pip install --editable . in its checkout"
        )
