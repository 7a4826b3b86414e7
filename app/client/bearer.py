"""The one way in which a client sends an API key."""


def bearer(api_key: str) -> str:
    """The value of the header Authorization.

    Raises:
        ValueError: the key has characters that no header can hold.
    """
    if not api_key.isascii() or not api_key.isprintable():
        raise ValueError("the API key has characters that no header can hold")
    return f"Bearer {api_key}"
