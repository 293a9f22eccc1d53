"""Callback URLs of forget requests, looked up and refused before a job is recorded.

That is for the client's sake: what counts is the check of `app.posting`, at each attempt.
"""

import asyncio
from collections.abc import Mapping

from app.problems import FieldError
from app.schemas import UnlearnRequest
from core.addresses import Addresses, Refused, Target, parse

_SECONDS = 5.0  # to look up all names of a request
_MOST_NAMES = 10  # of one bulk request


async def refusals(
    requests: Mapping[str, UnlearnRequest], addresses: Addresses, tenant: str
) -> list[FieldError]:
    """Return what is wrong with the addresses that requests want called.

    Args:
        requests: by the path of their fields in the body.
    """
    targets = {
        f"{path}callback_url": parse(body.callback_url)
        for path, body in requests.items()
        if body.callback_url is not None
    }
    distinct = list(dict.fromkeys(targets.values()))
    if len(distinct) > _MOST_NAMES:
        where = next(path for path, target in targets.items() if target == distinct[_MOST_NAMES])
        return [FieldError(where, f"is on one more host: a request may name {_MOST_NAMES}")]
    said = await asyncio.gather(*(_refusal(target, addresses, tenant) for target in distinct))
    refused = dict(zip(distinct, said, strict=True))
    found = ((path, refused[target]) for path, target in targets.items())
    return [FieldError(path, detail) for path, detail in found if detail is not None][:10]


async def _refusal(target: Target, addresses: Addresses, tenant: str) -> str | None:
    try:
        async with asyncio.timeout(_SECONDS):
            await addresses.resolve(*target, tenant)
    except Refused as refused:
        return str(refused)
    except TimeoutError:
        return "names a host that can't be found at present"
    return None
