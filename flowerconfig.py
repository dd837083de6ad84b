"""Read by a Flower that is started here with any app: it gets the restrictions of `tasks.flower_app`."""

import tasks.flower_app  # noqa: F401
