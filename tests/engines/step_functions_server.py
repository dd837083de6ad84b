"""Step Functions by moto, a server that executes state machines, and two things that moto lacks.

`AwsGateway` checks signatures, as AWS does. `HttpTasks` executes `http:invoke` tasks: in the example that
moto runs, they put their parameters into a queue (`sqs:sendMessage` with a task token), from which
`HttpTasks` sends the request, and then returns the answer to the state machine.
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
from domain.claim import ClaimEvent, Refusal, RunState
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


class StepFunctionsServer(EngineServer):
    """A moto server. Its workflow `take`, and all others, are created by the tests."""

    kind, workflow = "step_functions", arn("take")
    refusals = MappingProxyType(
        {
            Refusal.UNKNOWN_WORKFLOW: {"workflow": arn("missing")},
            Refusal.UNSUPPORTED: {"workflow": arn("express")},
            Refusal.UNAUTHORIZED: {"credentials": f"{KEY}:another secret"},
        }
    )

    start_after_end = ClaimEvent.FOUND
    # AWS says ABORTED; moto says FAILED if it stopped the run between two tries of a task.
    cancelled = frozenset({RunState.CANCELLED, RunState.FAILED})

    def __init__(self, directory: Path) -> None:
        self._created: list[tuple[str, str, dict[str, str]]] = []
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
        """Start it, and create again what was created before; its executions are lost."""
        self.process.start()
        self.process.wait_until(self._executes, START_SECONDS, "it accepts its configuration")
        for target, service, fields in self._created:
            self.call(target, service, **fields)

    def kill_server(self) -> None:
        """Kill it."""
        self.process.kill()

    def stop(self) -> None:
        """Stop it; it keeps no data."""
        stop_all([self.process])

    def _executes(self) -> bool:
        config = {"stepfunctions": {"execute_state_machine": True}}
        url = f"{self.url}moto-api/config"
        try:
            answer = requests.post(url, json=config, timeout=CALL_SECONDS)
        except requests.ConnectionError:
            return False
        return answer.status_code == 201

    def call(self, target: str, service: str = "states", **fields: Any) -> dict[str, Any]:
        """Call an action, such as `AWSStepFunctions.StopExecution`, which must succeed; return its answer."""
        sign = AwsSigner(CREDENTIALS, REGION, service)
        headers = {"Content-Type": JSON, "X-Amz-Target": target}
        request = sign(Request("POST", self.url, json.dumps(fields).encode(), headers))
        answer = requests.post(
            self.url, data=request.body, headers=dict(request.headers or {}), timeout=CALL_SECONDS
        )
        assert answer.ok, f"{target}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else {}

    def create(self, name: str, definition: dict[str, Any], kind: str = "STANDARD") -> str:
        """Create a state machine; return its ARN."""
        fields = {"name": name, "definition": json.dumps(definition), "roleArn": ROLE, "type": kind}
        created = self.create_resource("AWSStepFunctions.CreateStateMachine", "states", fields)
        return str(created["stateMachineArn"])

    def create_resource(self, target: str, service: str, fields: dict[str, str]) -> dict[str, Any]:
        """Call an action that creates something, now and whenever the server restarts."""
        self._created.append((target, service, fields))
        return self.call(target, service, **fields)

    def executions(self, machine: str) -> list[str]:
        """The names of all executions of a state machine."""
        answer = self.call("AWSStepFunctions.ListExecutions", stateMachineArn=machine)
        return [execution["name"] for execution in answer["executions"]]

    def settings(self, url: str = "") -> dict[str, str]:
        """With its credentials."""
        return {**super().settings(url), "credentials": CREDENTIALS}

    def gateway(self) -> "AwsGateway":
        """A gateway that checks signatures."""
        return AwsGateway(self.url)

    def is_start(self, request: Arrived) -> bool:
        """Whether a request starts an execution."""
        return _target(request).endswith(".StartExecution")

    def runs(self, dispatch_id: str) -> int:
        """The executions of `take` with this name."""
        return self.executions(self.workflow).count(dispatch_id)

    def kill_run(self, dispatch_id: str) -> None:
        """Stop the execution."""
        executions = self.workflow.replace(":stateMachine:", ":execution:")
        execution = f"{executions}:{dispatch_id}"
        self.call("AWSStepFunctions.StopExecution", executionArn=execution)


class AwsGateway(Gateway):
    """A gateway that also refuses requests with a wrong signature, as AWS does."""

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
    """Executes `http:invoke` tasks: adds the connection's header, and sends the request."""

    def __init__(self, server: StepFunctionsServer, header: str, value: str) -> None:
        self._server = server
        self._secret = {header: value}
        created = server.create_resource(
            "AmazonSQS.CreateQueue", "sqs", {"QueueName": "http-tasks"}
        )
        # The host name in the queue's URL does not resolve.
        self.queue = server.url.rstrip("/") + urlsplit(created["QueueUrl"]).path
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
            except (
                requests.RequestException,
                AssertionError,
            ):  # the server is down, or just restarted
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
        call = task["request"]
        assert call["Authentication"] == {"ConnectionArn": CONNECTION}
        try:
            answer = requests.request(
                call["Method"],
                call["ApiEndpoint"],
                json=call["RequestBody"],
                headers=self._secret,
                timeout=CALL_SECONDS,
            )
        except requests.RequestException:
            return self._fail(task["token"], "Http.Socket")
        if not answer.ok:
            return self._fail(task["token"], f"Http.StatusCode.{answer.status_code}")
        output = json.dumps({"StatusCode": answer.status_code})
        self._server.call(
            "AWSStepFunctions.SendTaskSuccess", taskToken=task["token"], output=output
        )
        return None

    def _fail(self, token: str, error: str) -> None:
        self._server.call(
            "AWSStepFunctions.SendTaskFailure", taskToken=token, error=error, cause="refused"
        )


class _Template(yaml.SafeLoader):
    """Reads CloudFormation's short forms (`!Ref x`) as their arguments."""


_Template.add_multi_constructor("!", lambda _loader, _tag, node: node.value)


def example() -> dict[str, Any]:
    """The resources of examples/step_functions/template.yaml."""
    with TEMPLATE.open() as file:
        resources: dict[str, Any] = yaml.load(file, _Template)["Resources"]
    return resources


# moto rejects a definition with the errors of HTTP tasks.
_ERROR_NAMES = ("States.Http.", "Http.")


def runnable(definition: Any, queue: str) -> Any:
    """A definition that moto can run: with the connection's ARN, and the queue of `HttpTasks`."""
    if isinstance(definition, list):
        return [runnable(item, queue) for item in definition]
    if isinstance(definition, str):
        return definition.replace("${ConnectionArn}", CONNECTION).replace(*_ERROR_NAMES)
    if not isinstance(definition, dict):
        return definition
    result = {name: runnable(value, queue) for name, value in definition.items()}
    if result.get("Resource") == "arn:aws:states:::http:invoke":
        message = {"token.$": "$$.Task.Token", "request": result["Parameters"]}
        result["Resource"] = "arn:aws:states:::sqs:sendMessage.waitForTaskToken"
        result["Parameters"] = {"QueueUrl": queue, "MessageBody": message}
    return result
