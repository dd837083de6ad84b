"""Signs requests to AWS (Signature Version 4), with credentials from botocore's usual chain."""

import threading
from dataclasses import replace
from typing import Any

import structlog
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.session import Session

from orchestrators.base import Request

log = structlog.get_logger("orchestrators")

_SECONDS = 5


class AwsSigner:
    """Signs for one service in one region. Needs botocore: `pip install 'takeone[aws]'`.

    `credentials` is `ACCESS_KEY:SECRET`; empty means botocore's chain (environment, files, web identity, the
    role of the container or the machine), which renews credentials before they expire.
    """

    def __init__(self, credentials: str, region: str, service: str) -> None:
        self._region, self._service = region, service
        self._lock = threading.Lock()
        self._latest: Any = None
        self._session = Session()
        # For the calls of the credential chain, to the machine's metadata service or to STS.
        self._session.set_default_client_config(
            Config(connect_timeout=2, read_timeout=_SECONDS, retries={"total_max_attempts": 1})
        )
        if credentials:
            access_key, _, secret = credentials.partition(":")
            self._session.set_credentials(access_key, secret)

    def __call__(self, request: Request) -> Request:
        """`request` with its signature; unsigned if there are no credentials, which AWS then refuses.

        A signature is valid for minutes by the machine's clock.
        """
        credentials = self._latest
        # If another thread waits for the chain, those from before may still be valid.
        if self._lock.acquire(timeout=_SECONDS):
            try:
                resolved = self._session.get_credentials()
                credentials = self._latest = resolved and resolved.get_frozen_credentials()
            except Exception as error:  # files, metadata and STS can fail in many ways
                log.warning("orchestrator.no_aws_credentials", error=type(error).__name__)
                return request
            finally:
                self._lock.release()
        if credentials is None:
            return request
        signed = AWSRequest(request.method, request.url, dict(request.headers or {}), request.body)
        SigV4Auth(credentials, self._service, self._region).add_auth(signed)
        return replace(request, headers=dict(signed.headers.items()))
