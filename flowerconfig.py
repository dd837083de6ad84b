"""Read by Flower when it is started in the checkout, with any app: the rules of `tasks.flower_app` hold."""

import tasks.flower_app  # noqa: F401
