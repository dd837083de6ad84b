"""The scenarios: the requests and processes, the policy, and the bounds."""

from tests.model.rules import FOR_EVER, policy
from tests.model.world import Scenario

OPERATOR = ("operator settled_sent", "operator settled_release")
_RETRY_A = "retry-job-ca978112ca1bbdca"
_RETRIED = (("run-job", "TRANSCRIBING"), (_RETRY_A, "TRANSCRIBING"), (_RETRY_A, "FAILED"))

TWO_WORKERS = Scenario("one run, two workers, doubled messages", policy(), ("run",), (), clients=1)
RUNS = Scenario("two clients run", policy(), ("run",), workers=1)
CANCEL = Scenario("run and cancel", policy(), ("run", "cancel"), workers=1, queue=1)
OPERATED = Scenario(
    "run and an operator, held for ever", policy(hold=None), ("run", *OPERATOR), workers=1, queue=1
)
FAILED = Scenario(
    "an operator fails the job, and retries it", policy(), ("run", "fail", "retry a"),
    (("run-job", "AUDIO_READY"), (_RETRY_A, "AUDIO_EXTRACTING")), workers=1, clients=1, queue=1,
)  # fmt: skip
RECOGNISED = Scenario(
    "run and cancel, an engine that recognises dispatches", policy(window=FOR_EVER), ("run", "cancel"),
    workers=1, queue=1,
)  # fmt: skip
WINDOW = Scenario(
    "run, an engine that recognises them for a while", policy(window=1), ("run",),
    workers=1, clients=1, queue=1,
)  # fmt: skip
ASKED = Scenario(
    "run, an engine that can be asked", policy(window=1, can_be_asked=True), ("run",),
    workers=1, clients=1, queue=1,
)  # fmt: skip
SILENT = Scenario(
    "run, an engine that says how it ended",
    policy(window=FOR_EVER, can_be_asked=True, first_report=1), ("run",),
    workers=1, clients=1, queue=1, epochs=1,
)  # fmt: skip
ASKED_AND_CANCELLED = Scenario(
    "run and cancel, an engine that can be asked", policy(window=FOR_EVER, can_be_asked=True),
    ("run", "cancel"), workers=1, clients=1, queue=1,
)  # fmt: skip
OWN_BROKER = Scenario(
    "two clients run, a separate broker", policy(), ("run",), workers=1, queue=1,
    is_transactional=False,
)  # fmt: skip
RETRIES = Scenario(
    "retries, and stragglers of the run", policy(), ("retry a", "retry b"), _RETRIED,
    starts_failed=True, workers=1, queue=1, epochs=3,
)  # fmt: skip
RETRIES_ASKED = Scenario(
    "retries, an engine that can be asked",
    policy(window=FOR_EVER, can_be_asked=True, first_report=1),
    ("retry a", "retry b"), (), starts_failed=True, workers=1, clients=1, queue=1,
)  # fmt: skip
SCENARIOS = (
    TWO_WORKERS, RUNS, CANCEL, OPERATED, FAILED, RECOGNISED, WINDOW, ASKED, SILENT, OWN_BROKER, RETRIES,
    RETRIES_ASKED,
)  # fmt: skip

# Too many states for every run of the tests; `python -m tests.model` explores them as well.
WIDER = (
    Scenario("one run, two workers, callbacks", policy(), ("run",), clients=1),
    Scenario(
        "run and an operator, a message more", policy(hold=None), ("run", *OPERATOR), workers=1
    ),
    ASKED_AND_CANCELLED,
    Scenario("three epochs", policy(), ("run",), workers=1, queue=1, epochs=3),
)
