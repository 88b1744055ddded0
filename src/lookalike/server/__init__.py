"""The service: a page where a shopper drops a photo, and an HTTP API. Needs the extra `serve`."""

from lookalike.server.limits import Limits

__all__ = ["Limits"]
