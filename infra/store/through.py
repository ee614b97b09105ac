"""A store that passes everything on to another one: what a wrapper does not change, it inherits from here."""

from __future__ import annotations

from infra.store.base import MESSAGE_BYTES, Store, Versioned


class Through(Store):
    """Every call goes to `inner`."""

    def __init__(self, inner: Store):
        self.inner = inner

    def put(self, key: str, data: bytes) -> None:
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self.inner.put_if_absent(key, data)

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        return self.inner.get(key, limit)

    def get_if_changed(self, key: str, tag: str | None) -> Versioned | None:
        return self.inner.get_if_changed(key, tag)

    def list(self, prefix: str) -> list[str]:
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self.inner.delete(key)
