"""A store that lies to its readers: other bytes than were written, older ones, somebody else's, or none."""

from __future__ import annotations

from collections.abc import Callable

from infra.store.base import MESSAGE_BYTES, Store, Versioned

Lie = Callable[[str, bytes | None], bytes | None]


class Liar:
    """What is read passes through `lie(key, data)`, and what is listed through `hide(keys)`."""

    def __init__(
        self,
        inner: Store,
        lie: Lie = lambda _, data: data,
        hide: Callable[[list[str]], list[str]] = lambda keys: keys,
    ):
        self.inner, self.lie, self.hide = inner, lie, hide

    def put(self, key: str, data: bytes) -> None:
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self.inner.put_if_absent(key, data)

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        return self.lie(key, self.inner.get(key, limit))

    def get_if_changed(self, key: str, tag: str | None) -> Versioned | None:
        found = self.inner.get_if_changed(key, tag)
        data = None if found is None else self.lie(key, found.data)
        return None if found is None or data is None else Versioned(data, found.tag)

    def list(self, prefix: str) -> list[str]:
        return self.hide(self.inner.list(prefix))

    def delete(self, key: str) -> None:
        self.inner.delete(key)
