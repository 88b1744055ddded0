"""A catalogue's store in a Milvus server (extra `milvus`), for galleries beyond one machine."""

from lookalike.store.milvus.store import MilvusStore

__all__ = ["MilvusStore"]
