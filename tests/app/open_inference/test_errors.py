"""Failures as V2 clients can read them."""

import httpx


async def test_native_addresses_keep_their_own_error_shape(client: httpx.AsyncClient) -> None:
    for path in ("/v2x", "/V2", "/v1/models"):
        error = (await client.get(path)).json()["error"]

        assert error["code"] == "not_found"
