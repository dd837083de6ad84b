"""Prints the settings' documentation."""

from settings.documentation import document
from settings.model import Settings

print(document(Settings), end="")  # noqa: T201 - that is what it is for
