"""A dispatch that fails in the worker before anything leaves: it is not started, and can be run again."""

from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

# No name of a host may be so long, and so none can be asked for.
_NO_HOST = f"http://{'a' * 64}.example/"


def test_a_dispatch_that_cannot_be_built_is_not_started_and_can_be_run_again(
    new_stack: NewStack, orchestrator: StubOrchestrator
) -> None:
    # Nothing but the worker itself may settle it.
    stack = new_stack(TAKEONE_SWEEP_INTERVAL_SECONDS="3600")
    (worker,) = stack.workers
    right = worker.environment
    worker.environment = {**right, "TAKEONE_ORCHESTRATOR_URL": _NO_HOST}
    with stack:
        editor = ApiClient(stack.api_url, "frida")
        job_id = editor.uploaded_job()["id"]
        run = editor.run(job_id)
        assert run.status_code == 502
        assert run.json()["details"] == {"reason": "not_started"}
        assert editor.job(job_id).json()["status"] == "UPLOADED"
        worker.environment = right
        worker.kill()  # it has nothing in hand
        stack.restart(worker)
        assert editor.run(job_id).status_code == 202
    assert len(orchestrator.requests_for(job_id)) == 1
