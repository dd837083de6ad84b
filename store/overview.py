"""What the store knows of the service as a whole: claims and queues, as an operator watches them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.claim import Claim, Phase
from store import codec, keys
from store.link import Link

# Looking at each claim is for a handful of them; in a crisis there may be many more.
_MOST_CLAIMS = 1_000


@dataclass(frozen=True, slots=True)
class Overview:
    """Claims and queues at one moment; ages in seconds, 0 where there is nothing.

    `phases` and `oldest_claim_age` are of the 1,000 claims in flight that are due first.
    """

    in_flight: int
    phases: dict[Phase, int]
    oldest_claim_age: float
    oldest_unknown_age: float
    queue_lengths: list[int]


def overview(link: Link, queues: Sequence[str], now: datetime) -> Overview:
    """Read it, in two round trips. Raises `StoreUnavailable`."""
    in_flight, due, unknown, oldest, *lengths = link.call(
        ("ZCARD", keys.IN_FLIGHT),
        ("ZRANGE", keys.IN_FLIGHT, 0, _MOST_CLAIMS - 1),
        ("ZCARD", keys.UNKNOWN),
        ("ZRANGE", keys.UNKNOWN, 0, 0, "WITHSCORES"),
        *(("LLEN", queue) for queue in queues),
    )
    claims = _open_claims(link, [job_id.decode() for job_id in due])
    phases = Counter(claim.phase for claim in claims)
    since = min((claim.claimed_at for claim in claims), default=now)
    return Overview(
        in_flight=in_flight,
        # All of them: an unknown outcome that is held for ever is due at no time.
        phases={
            Phase.CLAIMED: phases[Phase.CLAIMED],
            Phase.SENDING: phases[Phase.SENDING],
            Phase.UNKNOWN: unknown,
        },
        oldest_claim_age=max(0.0, (now - since).total_seconds()),
        oldest_unknown_age=max(0.0, now.timestamp() - float(oldest[1])) if oldest else 0.0,
        queue_lengths=lengths,
    )


def _open_claims(link: Link, job_ids: list[str]) -> list[Claim]:
    if not job_ids:
        return []
    raws = link.call(*(("GET", keys.claim(job_id)) for job_id in job_ids))
    claims = [codec.load_claim(raw) for raw in raws if raw]
    return [claim for claim in claims if claim.in_flight]
