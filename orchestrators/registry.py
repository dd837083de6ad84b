"""The adapter that the settings name, and the policy for dispatches to it."""

import re
from datetime import timedelta
from hashlib import sha256

from domain.claim import DispatchPolicy
from orchestrators.airflow import Airflow
from orchestrators.base import Adapter
from orchestrators.prefect import Prefect
from orchestrators.restate import Restate
from orchestrators.signatures import Signer
from orchestrators.step_functions import StepFunctions
from orchestrators.temporal import Temporal
from orchestrators.webhook import Webhook
from settings import Settings


def make_adapter(settings: Settings) -> Adapter:
    """The adapter for `TAKEONE_ORCHESTRATOR_KIND`. Connects to nothing."""
    url, cancel_url = settings.orchestrator_url, settings.orchestrator_cancel_url
    workflow = settings.orchestrator_workflow
    credentials = settings.orchestrator_credentials.get_secret_value()
    match settings.orchestrator_kind:
        case "webhook":
            return Webhook(
                url,
                Signer(settings.signing_secrets),
                _span(settings.orchestrator_idempotency_seconds),
                cancel_url,
                settings.orchestrator_header_fields,
            )
        case "airflow":
            return Airflow(url, workflow, credentials)
        case "prefect":
            return Prefect(url, workflow, credentials)
        case "restate":
            return Restate(url, workflow, credentials, cancel_url)
        case "temporal":
            return Temporal(url, workflow, credentials, settings.orchestrator_namespace)
        case "step_functions":
            return StepFunctions(url, workflow, credentials)


def dispatch_policy(settings: Settings) -> DispatchPolicy:
    """The settings that the dispatch rules need."""
    adapter = make_adapter(settings)
    window = adapter.window
    if window is not None and window != timedelta.max:
        # Less the time that a send may still take, and the difference between clocks.
        window -= timedelta(seconds=settings.resend_margin_seconds)
    return DispatchPolicy(
        claim_lease=timedelta(seconds=settings.claim_lease_seconds),
        send_lease=timedelta(seconds=settings.send_lease_seconds),
        unknown_hold=_span(settings.unknown_hold_seconds),
        window=window,
        can_be_asked=adapter.can_be_asked,
        can_cancel=adapter.can_cancel,
        engine=_engine(settings),
        first_report=_span(settings.first_report_seconds),
        silent_after=_span(settings.silent_after_seconds),
    )


def _span(seconds: float) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds else None


def _engine(settings: Settings) -> str:
    """A digest that identifies the engine, whatever the password in its URL; empty if the settings of this
    process do not name one."""
    if not settings.orchestrator_url and settings.orchestrator_kind != "step_functions":
        return ""
    identity = (
        settings.orchestrator_kind,
        re.sub("//[^/?#]*@", "//", settings.orchestrator_url),
        settings.orchestrator_workflow,
        settings.orchestrator_namespace,
    )
    return sha256("\n".join(identity).encode()).hexdigest()[:16]
