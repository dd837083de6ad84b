"""Step Functions as moto has it: a server that executes state machines. What moto lacks is beside it:

a front that checks signatures, as AWS does, and the `http:invoke` task. moto has no such task, so it runs the
example with that one resource exchanged: the task puts its parameters into a queue (`sqs:sendMessage` with a
task token), and `HttpTasks` sends the request and tells the state machine what was answered.
"""

import json
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml

from devstack.ports import HOST, free_port
from devstack.processes import ROOT, Process, clean_environment, stop_all
from domain.claim import Refusal, RunState
from orchestrators.aws import AwsSigner
from orchestrators.base import Request
from tests.engines.contract import EngineServer
from tests.engines.gateway import Gateway
from tests.engines.installing import python_environment
from tests.support.aws_signatures import problem_of
from tests.support.behaviours import Behaviour, answer
from tests.support.behaviours import Request as Arrived

REQUIREMENTS = ("moto[server,stepfunctions]==5.2.5", "boto3==1.44.8", "cfn-lint==1.58.0")
TEMPLATE = ROOT / "examples" / "step_functions" / "template.yaml"
REGION, ACCOUNT = "eu-central-1", "123456789012"
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
CREDENTIALS = f"{KEY}:{SECRET}"
CONNECTION = f"arn:aws:events:{REGION}:{ACCOUNT}:connection/take/1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/take"
START_SECONDS = 60.0
CALL_SECONDS = 10.0
JSON = "application/x-amz-json-1.0"


def arn(name: str) -> str:
    """The ARN of a state machine."""
    return f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{name}"


def execution_arn(machine: str, dispatch_id: str) -> str:
    """The ARN of an execution of a state machine."""
    return f"{machine.replace(':stateMachine:', ':execution:')}:{dispatch_id}"


class StepFunctionsServer(EngineServer):
    """A moto server that executes what is started. Its workflow, `take`, is for the tests to create."""

    kind, workflow = "step_functions", arn("take")
    refusals = MappingProxyType(
        {
            Refusal.UNKNOWN_WORKFLOW: {"workflow": arn("missing")},
            Refusal.UNSUPPORTED: {"workflow": arn("express")},
            Refusal.UNAUTHORIZED: {"credentials": f"{KEY}:another secret"},
        }
    )

    def __init__(self, directory: Path) -> None:
        self._made: list[tuple[str, str, dict[str, str]]] = []
        programs = python_environment("step_functions", *REQUIREMENTS)
        self.lint = programs / "cfn-lint"
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}/"
        self.process = Process(
            "moto",
            [str(programs / "moto_server"), "-H", HOST, "-p", str(self.port)],
            # moto's own tasks call moto by boto3.
            environment=clean_environment(
                {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            ),
            log_path=directory / "moto.log",
            port=self.port,
        )

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.start_server()

    def start_server(self) -> None:
        """Start it, with what was created before, but without what was started: it keeps nothing itself."""
        self.process.start()
        self.process.wait_until(self._executes, START_SECONDS, "it takes its configuration")
        for target, service, fields in self._made:
            self.call(target, service, **fields)

    def kill_server(self) -> None:
        """Kill it."""
        self.process.kill()

    def stop(self) -> None:
        """Stop it; all that it knew is gone."""
        stop_all([self.process])

    def _executes(self) -> bool:
        wanted = {"stepfunctions": {"execute_state_machine": True}}
        try:
            answered = requests.post(
                f"{self.url}moto-api/config", json=wanted, timeout=CALL_SECONDS
            )
        except requests.ConnectionError:
            return False
        return answered.status_code == 201

    def call(self, target: str, service: str = "states", **fields: Any) -> dict[str, Any]:
        """Call an action, such as `AWSStepFunctions.StopExecution`; its answer must be a success."""
        sign = AwsSigner(CREDENTIALS, REGION, service)
        headers = {"Content-Type": JSON, "X-Amz-Target": target}
        request = sign(Request("POST", self.url, json.dumps(fields).encode(), headers))
        answered = requests.post(
            self.url, data=request.body, headers=dict(request.headers or {}), timeout=CALL_SECONDS
        )
        assert answered.ok, f"{target}: {answered.status_code} {answered.text}"
        return answered.json() if answered.content else {}

    def create(self, name: str, definition: dict[str, Any], kind: str = "STANDARD") -> str:
        """Create a state machine; return its ARN."""
        fields = {"name": name, "definition": json.dumps(definition), "roleArn": ROLE, "type": kind}
        made = self.make("AWSStepFunctions.CreateStateMachine", "states", fields)
        return str(made["stateMachineArn"])

    def make(self, target: str, service: str, fields: dict[str, str]) -> dict[str, Any]:
        """Call an action that creates something, now and whenever the server starts again."""
        self._made.append((target, service, fields))
        return self.call(target, service, **fields)

    def status(self, machine: str, dispatch_id: str) -> str:
        """What the engine itself says of an execution."""
        execution = execution_arn(machine, dispatch_id)
        return str(
            self.call("AWSStepFunctions.DescribeExecution", executionArn=execution)["status"]
        )

    def executions(self, machine: str) -> list[str]:
        """The names of all executions of a state machine."""
        found = self.call("AWSStepFunctions.ListExecutions", stateMachineArn=machine)
        return [each["name"] for each in found["executions"]]

    def settings(self, url: str = "") -> dict[str, str]:
        """With its credentials."""
        return {**super().settings(url), "credentials": CREDENTIALS}

    def is_cancelled(self, dispatch_id: str) -> bool:
        """AWS says ABORTED; moto fails over a branch that it stopped between two tries, and says FAILED."""
        return self.speak().ask(dispatch_id).state in (RunState.CANCELLED, RunState.FAILED)

    def gateway(self) -> "AwsGateway":
        """The front that checks signatures."""
        return AwsGateway(self.url)

    def is_start(self, request: Arrived) -> bool:
        """Whether a request starts an execution."""
        return _target(request).endswith(".StartExecution")

    def runs(self, dispatch_id: str) -> int:
        """The executions of `take` with this name."""
        return self.executions(self.workflow).count(dispatch_id)

    def kill_run(self, dispatch_id: str) -> None:
        """Stop the execution."""
        execution = execution_arn(self.workflow, dispatch_id)
        self.call("AWSStepFunctions.StopExecution", executionArn=execution)


class AwsGateway(Gateway):
    """Refuses requests whose signature is wrong, in AWS's words; else a gateway as for every engine."""

    def __init__(self, engine_url: str) -> None:
        super().__init__(engine_url, lambda request: _target(request).endswith(".StartExecution"))
        self.secrets = {KEY: SECRET}

    def behaviour_for(self, request: Arrived) -> Behaviour:
        """Check the signature first."""
        url = f"http://{request.headers['host']}{request.path}"
        problem = problem_of(request.method, url, request.headers, request.body, self.secrets)
        if problem is None:
            return super().behaviour_for(request)
        return answer(400, json.dumps({"__type": problem}).encode(), {"Content-Type": JSON})


def _target(request: Arrived) -> str:
    return request.headers.get("x-amz-target", "")


class HttpTasks:
    """Does what Step Functions does for an `http:invoke` task: adds the connection's header, and sends."""

    def __init__(self, server: StepFunctionsServer, header: str, value: str) -> None:
        self._server = server
        self._secret = {header: value}
        made = server.make("AmazonSQS.CreateQueue", "sqs", {"QueueName": "http-tasks"})
        # The queue's own host name is none of this machine's.
        self.queue = server.url.rstrip("/") + urlsplit(made["QueueUrl"]).path
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http-tasks")

    def __enter__(self) -> "HttpTasks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(CALL_SECONDS * 3)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._work()
            except (requests.RequestException, AssertionError):  # the server is away, or just back
                self._stopping.wait(0.2)

    def _work(self) -> None:
        received = self._server.call(
            "AmazonSQS.ReceiveMessage", "sqs", QueueUrl=self.queue, WaitTimeSeconds=1
        )
        for message in received.get("Messages", []):
            handle = message["ReceiptHandle"]
            self._server.call(
                "AmazonSQS.DeleteMessage", "sqs", QueueUrl=self.queue, ReceiptHandle=handle
            )
            self._invoke(json.loads(message["Body"]))

    def _invoke(self, task: dict[str, Any]) -> None:
        given = task["request"]
        assert given["Authentication"] == {"ConnectionArn": CONNECTION}
        try:
            answered = requests.request(
                given["Method"],
                given["ApiEndpoint"],
                json=given["RequestBody"],
                headers=self._secret,
                timeout=CALL_SECONDS,
            )
        except requests.RequestException:
            return self._fail(task["token"], "Http.Socket")
        if not answered.ok:
            return self._fail(task["token"], f"Http.StatusCode.{answered.status_code}")
        output = json.dumps({"StatusCode": answered.status_code})
        self._server.call(
            "AWSStepFunctions.SendTaskSuccess", taskToken=task["token"], output=output
        )
        return None

    def _fail(self, token: str, error: str) -> None:
        self._server.call(
            "AWSStepFunctions.SendTaskFailure", taskToken=token, error=error, cause="told"
        )


class _Template(yaml.SafeLoader):
    """CloudFormation's short forms (`!Ref`) read as what they stand on."""


_Template.add_multi_constructor("!", lambda _loader, _tag, node: node.value)


def example() -> dict[str, Any]:
    """The resources of examples/step_functions/template.yaml."""
    with TEMPLATE.open() as file:
        resources: dict[str, Any] = yaml.load(file, _Template)["Resources"]
    return resources


# moto takes no errors of HTTP tasks into a definition.
_ERROR_NAMES = ("States.Http.", "Http.")


def runnable(definition: Any, queue: str) -> Any:
    """A definition with the connection's ARN, and `http:invoke` exchanged for the queue of `HttpTasks`."""
    if isinstance(definition, list):
        return [runnable(each, queue) for each in definition]
    if isinstance(definition, str):
        return definition.replace("${ConnectionArn}", CONNECTION).replace(*_ERROR_NAMES)
    if not isinstance(definition, dict):
        return definition
    made = {name: runnable(value, queue) for name, value in definition.items()}
    if made.get("Resource") == "arn:aws:states:::http:invoke":
        message = {"token.$": "$$.Task.Token", "request": made["Parameters"]}
        made["Resource"] = "arn:aws:states:::sqs:sendMessage.waitForTaskToken"
        made["Parameters"] = {"QueueUrl": queue, "MessageBody": message}
    return made
