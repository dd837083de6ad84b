"""What `takeone doctor` asks of the queues: whether messages go through, and whether anybody listens."""

from uuid import uuid4

from settings import Settings
from tasks.broker import broker_connection

_ROUND_TRIP_SECONDS = 3.0


def broker_round_trip(settings: Settings) -> str | None:
    """Send a message to a queue of its own and take it back. None, or the kind of error it met."""
    word = uuid4().hex
    try:
        with broker_connection(settings) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            queue = connection.SimpleQueue(f"takeone.doctor.{word}")
            try:
                queue.put(word, retry=False)
                message = queue.get(timeout=_ROUND_TRIP_SECONDS)
                message.ack()
            finally:
                queue.close()  # first: RabbitMQ would tell the reader that its queue has gone
                queue.queue.delete()
    except Exception as error:  # every transport has its own ways to fail
        return type(error).__name__
    return None if message.payload == word else "another message came back"


def workers_that_answer(seconds: float) -> list[str]:
    """The names of the workers that answer a ping within `seconds`; empty if the broker is away."""
    from tasks.app import app

    try:
        replies = app.control.ping(timeout=seconds)
    except Exception:  # as above
        return []
    return sorted(name for reply in replies for name in reply)
