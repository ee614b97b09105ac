"""Any sequence of calls, against a dict."""

from __future__ import annotations

import uuid

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from infra.errors import StoreError
from infra.store import open_store
from infra.store.base import Store

PARTS = st.sampled_from(["a", "ab", "b", "0", ".x", "-", "a.b"])
KEYS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
PREFIXES = st.one_of(
    st.just(""),
    KEYS,
    KEYS.map(lambda k: k + "/"),
    KEYS.map(lambda k: k[:-1]).filter(lambda k: not k.endswith("/")),
)
DATA = st.binary(max_size=3)


class StoreMachine(RuleBasedStateMachine):
    """`folders`: an object cannot lie where another one's folder is, and the store says so."""

    def __init__(self, store: Store, folders: bool):
        super().__init__()
        self.store = store
        self.folders = folders
        self.model: dict[str, bytes] = {}
        self.tags: dict[str, tuple[str, bytes]] = {}

    def in_the_way(self, key: str) -> bool:
        return self.folders and any(k.startswith(key + "/") or key.startswith(k + "/") for k in self.model)

    @rule(key=KEYS, data=DATA)
    def put(self, key, data):
        try:
            self.store.put(key, data)
        except StoreError:
            assert self.in_the_way(key)
        else:
            assert not self.in_the_way(key)
            self.model[key] = data

    @rule(key=KEYS, data=DATA)
    def put_if_absent(self, key, data):
        try:
            created = self.store.put_if_absent(key, data)
        except StoreError:
            assert self.in_the_way(key)
        else:
            assert not self.in_the_way(key)
            assert created == (key not in self.model)
            self.model.setdefault(key, data)

    @rule(key=KEYS)
    def get(self, key):
        assert self.store.get(key) == self.model.get(key)

    @rule(key=KEYS)
    def get_if_changed(self, key):
        tag, known = self.tags.get(key, (None, None))
        found = self.store.get_if_changed(key, tag)
        if found is None:
            assert self.model.get(key) in (None, known)
        else:
            assert found.data == self.model[key]
            assert self.store.get_if_changed(key, found.tag) is None
            self.tags[key] = (found.tag, found.data)

    @rule(prefix=PREFIXES)
    def list(self, prefix):
        assert self.store.list(prefix) == sorted(k for k in self.model if k.startswith(prefix))

    @rule(key=KEYS)
    def delete(self, key):
        self.store.delete(key)
        self.model.pop(key, None)

    @invariant()
    def nothing_else_is_there(self):
        assert self.store.list("") == sorted(self.model)


def test_a_store_is_a_dict(url):
    """Every state that calls can reach, as far as chance finds them; fewer where each call crosses a network."""
    remote = url.startswith("s3:")
    limits = settings(
        max_examples=6 if remote else 60,
        stateful_step_count=25 if remote else 40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )

    def machine() -> StoreMachine:
        head, question, query = url.partition("?")
        fresh = f"{head}/{uuid.uuid4().hex}{question}{query}"
        return StoreMachine(open_store(fresh), folders=not remote)

    run_state_machine_as_test(machine, settings=limits)
