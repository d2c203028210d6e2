"""Questions to the Hub that the client library asks without a limit of time, asked here with one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def pages(path: str, parameters: dict[str, str] | None = None) -> Iterator[Any]:
    """The parsed pages of what the Hub answers under `/api/PATH`, one request each. Raises what the client raises."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    address: str | None = f"{constants.ENDPOINT}/api/{path}"
    while address is not None:
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        answer = get_session().get(address, params=parameters, headers=build_hf_headers(), timeout=timeout)
        hf_raise_for_status(answer)
        yield answer.json()
        address, parameters = answer.links.get("next", {}).get("url"), None  # it holds the parameters already
