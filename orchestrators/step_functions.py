"""AWS Step Functions, Standard workflows: the dispatch id is the execution's name."""

from datetime import timedelta

import orjson

from domain.claim import ClaimEvent, Refusal, RunState
from orchestrators.base import Adapter, Answer, Cancel, Dispatch, Request, Run

# Names of errors (`__type`) in the API reference.
_ERRORS = {
    Refusal.UNKNOWN_WORKFLOW: """
        InvalidArn StateMachineDeleting StateMachineDoesNotExist StateMachineTypeNotSupported""",
    Refusal.INVALID_PARAMETERS: "InvalidExecutionInput InvalidName ValidationException",
    Refusal.UNAVAILABLE: """
        ExecutionLimitExceeded RequestLimitExceeded ThrottlingException TooManyRequestsException""",
    Refusal.UNAUTHORIZED: """
        AccessDeniedException ExpiredTokenException IncompleteSignature IncompleteSignatureException
        InvalidClientTokenId InvalidSignatureException MissingAuthenticationToken
        MissingAuthenticationTokenException NotAuthorized OptInRequired SignatureDoesNotMatch
        UnrecognizedClientException""",
}
_REFUSALS = {name: refusal for refusal, names in _ERRORS.items() for name in names.split()}

_STATES = {
    "RUNNING": RunState.RUNNING,
    "PENDING_REDRIVE": RunState.RUNNING,
    "SUCCEEDED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
    "TIMED_OUT": RunState.FAILED,
    "ABORTED": RunState.CANCELLED,
}


class StepFunctions(Adapter):
    """Starts the state machine whose ARN is `workflow`.

    An empty `url` means AWS's endpoint of the ARN's region. `credentials`: see `AwsSigner`.
    """

    # A name cannot be reused for 90 days after its execution has ended.
    window = timedelta(days=90)

    def __init__(self, url: str, workflow: str, credentials: str) -> None:
        from orchestrators.aws import AwsSigner  # needs a package that no other engine needs

        _, partition, _, region, *_ = workflow.split(":")
        domain = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
        self._url = url or f"https://states.{region}.{domain}/"
        self._machine = workflow
        self._sign = AwsSigner(credentials, region, "states")

    def prepare(self) -> Request:
        """The type of the state machine: an EXPRESS one would start a dispatch twice."""
        return self._call("DescribeStateMachine", stateMachineArn=self._machine)

    def read_prepare(self, answer: Answer) -> str | Refusal:
        """Valid for ever: a state machine's type never changes."""
        if not answer.is_success:
            return _REFUSALS.get(_error(answer), Refusal.UNAVAILABLE)
        match answer.fields():
            case {"status": "DELETING"}:
                return Refusal.UNKNOWN_WORKFLOW
            case {"type": "EXPRESS"}:
                return Refusal.UNSUPPORTED
            case {"type": "STANDARD"}:
                return ""
        return Refusal.UNAVAILABLE

    def start(self, dispatch: Dispatch, prepared: str) -> Request:
        return self._call(
            "StartExecution",
            stateMachineArn=self._machine,
            name=dispatch.dispatch_id,
            input=dispatch.body.decode(),
        )

    def is_accepted(self, answer: Answer) -> bool:
        """A repeat while the execution runs gets the same answer as the first start."""
        return ":execution:" in str(answer.fields().get("executionArn"))

    def read_start(self, answer: Answer) -> ClaimEvent | Refusal:
        error = _error(answer)
        if error == "ExecutionAlreadyExists":
            return ClaimEvent.LOST
        return _REFUSALS.get(error, Refusal.REFUSED) if error else super().read_start(answer)

    def ask(self, dispatch_id: str, prepared: str) -> Request:
        return self._call("DescribeExecution", executionArn=self._execution(dispatch_id))

    def read_ask(self, answer: Answer) -> Run:
        fields = answer.fields()
        if answer.is_success and "executionArn" in fields:
            return Run(_STATES.get(str(fields.get("status")), RunState.NO_ANSWER))
        is_absent = _error(answer) == "ExecutionDoesNotExist"
        return Run(RunState.NOT_FOUND if is_absent else RunState.NO_ANSWER)

    def cancel(self, dispatch: Dispatch, run: Run | None, prepared: str) -> Request:
        """An execution that has ended stays as it is."""
        return self._call("StopExecution", executionArn=self._execution(dispatch.dispatch_id))

    def is_cancelled(self, answer: Answer) -> bool:
        """In moto `stopDate` is missing until the execution has stopped."""
        return answer.json() == {} or "stopDate" in answer.fields()

    def read_cancel(self, answer: Answer) -> Cancel:
        """Only an error by name is AWS's own. It says with 400 too that credentials are not accepted."""
        error = _error(answer)
        if error == "ExecutionDoesNotExist":
            return Cancel.NOT_FOUND
        may_pass = _REFUSALS.get(error) in (Refusal.UNAVAILABLE, Refusal.UNAUTHORIZED)
        is_own = answer.is_success or error
        return super().read_cancel(answer) if is_own and not may_pass else Cancel.NO_ANSWER

    def _execution(self, dispatch_id: str) -> str:
        return f"{self._machine.replace(':stateMachine:', ':execution:')}:{dispatch_id}"

    def _call(self, action: str, **fields: str) -> Request:
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": f"AWSStepFunctions.{action}",
        }
        return self._sign(Request("POST", self._url, orjson.dumps(fields), headers))


def _error(answer: Answer) -> str:
    """The name of the error with which AWS refused, without its namespace; empty if it did not refuse.

    5xx is no refusal: the fault may have come after the start.
    """
    if answer.status not in (400, 403, 429):
        return ""
    return str(answer.fields().get("__type", "")).rpartition("#")[2]
