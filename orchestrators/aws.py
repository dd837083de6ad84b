"""Signs requests to AWS (Signature Version 4), with credentials as every AWS tool finds them."""

import threading
from dataclasses import replace

import structlog
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.session import Session

from orchestrators.base import Request

log = structlog.get_logger("orchestrators")

# Limits of each call that the credential chain makes, to the machine's metadata or to STS.
_CONNECT_SECONDS, _READ_SECONDS = 2, 5


class AwsSigner:
    """Signs for one service in one region. Needs botocore: `pip install 'takeone[aws]'`.

    `credentials` is `ACCESS_KEY:SECRET`; empty means botocore's own chain (environment, files, web identity,
    the container's or the machine's role), which renews what expires.
    """

    def __init__(self, credentials: str, region: str, service: str) -> None:
        self._region, self._service = region, service
        self._lock = threading.Lock()
        self._session = Session()
        self._session.set_default_client_config(
            Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"total_max_attempts": 1},
            )
        )
        if credentials:
            access_key, _, secret = credentials.partition(":")
            self._session.set_credentials(access_key, secret)

    def __call__(self, request: Request) -> Request:
        """`request` with the headers of its signature; as it is, if there are no credentials to be had.

        AWS refuses one that is not signed. A signature is good for minutes by the machine's clock.
        """
        try:
            with self._lock:  # the chain is walked by one thread
                found = self._session.get_credentials()
                credentials = found and found.get_frozen_credentials()
        except Exception as error:  # whatever files, metadata and STS bring: nothing is signed
            log.warning("orchestrator.no_aws_credentials", error=type(error).__name__)
            return request
        if credentials is None:
            return request
        made = AWSRequest(request.method, request.url, dict(request.headers or {}), request.body)
        SigV4Auth(credentials, self._service, self._region).add_auth(made)
        return replace(request, headers=dict(made.headers.items()))
