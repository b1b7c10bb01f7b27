"""Who asks: by this the engine's queue tells visitors apart."""

from ipaddress import ip_address

from gradio.context import LocalContext


def visitor() -> str | None:
    """The address of whoever sent the event at work, and on this machine itself the page; None outside of any event.

    Behind a proxy it is the address that the proxy tells (X-Forwarded-For), where the server trusts it: see
    docs/hosting.md.
    """
    request = LocalContext.request.get(None)
    if request is None:
        return None
    host = request.client.host if request.client else ""
    return request.session_hash if is_local(host) else host


def is_local(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
