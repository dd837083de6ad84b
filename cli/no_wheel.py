"""Refuses to build a wheel, which would put packages called `api` and `settings` into site-packages.

Take One runs from its checkout (`pip install --editable .`) or its image. `setup.cfg` gives this to setuptools.
"""

from setuptools.command.bdist_wheel import bdist_wheel  # type: ignore[import-untyped]


class NoWheel(bdist_wheel):  # type: ignore[misc]
    """Not used by an editable install."""

    def run(self) -> None:
        """Refuse."""
        raise SystemExit(
            "Take One is not offered as a wheel: pip install --editable . in its checkout"
        )
