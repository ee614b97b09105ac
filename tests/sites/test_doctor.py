"""The doctor's rows, each from a real cause."""

from __future__ import annotations

import csv
import fcntl
import http.server
import json
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from sites.cli import main
from sites.doctor import Row, apart, books, data, dryrun, machine, network, resources, rights, studies
from sites.doctor.short import last_look
from sites.settings import Site, load_site
from tasks import layout
from tasks.codes import Concern
from tests.services.certificates import make_certificate
from tests.sites import attacks
from tests.sites.builders import ToyHub, a_study, an_agent, approve_here, write_site

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def one(rows: Iterator[Row]) -> Row:
    (row,) = rows
    assert row.state == "ok" or row.cure
    return row


@contextmanager
def a_server(tls: tuple[Path, Path] | None = None, ahead: float = 0.0) -> Iterator[int]:
    """Answers anything, with a clock of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", formatdate(time.time() + ahead, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def on_s3(folder: Path, endpoint: str, more: str = "") -> Site:
    path = write_site(folder, extra=more)
    store = (folder / "store").as_uri()
    path.write_text(path.read_text().replace(store, f"s3://bucket/x?endpoint={endpoint}"))
    return load_site(path)


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_an_authority_that_intercepts_is_named(tmp_path, no_proxy):
    """The most frequent riddle of a hospital's network: TLS that its own proxy opens."""
    _, certificate, key = make_certificate(tmp_path)
    with a_server((certificate, key)) as port:
        row = one(network.certificate(on_s3(tmp_path, f"https://localhost:{port}")))

    assert row.state == "fail"
    assert "fedrounds test authority" in row.text
    assert "store_ca" in row.cure


def test_the_authority_of_store_ca_is_trusted(tmp_path, no_proxy):
    """A certificate of six hours is good, and about to end."""
    authority, certificate, key = make_certificate(tmp_path)
    with a_server((certificate, key)) as port:
        site = on_s3(tmp_path, f"https://localhost:{port}", f"store_ca: {authority}\n")
        row = one(network.certificate(site))
        assert one(network.clock(site)).state == "ok"

    assert (row.state, "ends in 6 hours" in row.text) == ("warn", True)


@pytest.mark.parametrize(("ahead", "state"), [(0, "ok"), (600, "fail"), (-600, "fail")])
def test_a_clock_that_is_off_is_seen(tmp_path, no_proxy, ahead, state):
    """By the server's Date; S3 refuses requests of another hour with a riddle."""
    with a_server(ahead=ahead) as port:
        assert one(network.clock(on_s3(tmp_path, f"http://127.0.0.1:{port}"))).state == state


def test_a_name_without_address_and_a_proxy_that_is_away(tmp_path, no_proxy):
    """Each is its own row, so that the right person is called."""
    site = on_s3(tmp_path, "https://store.invalid")
    assert one(network.name(site)).state == "fail"
    away = on_s3(tmp_path, "https://store.invalid", "proxy: http://127.0.0.1:9\n")
    assert one(network.name(away)).state == "ok"
    assert one(network.proxy(away)).state == "fail"
    assert one(network.certificate(away)).state == "fail"
    assert one(network.clock(away)).state == "warn"


def test_a_full_disk_is_a_failure(tmp_path, monkeypatch):
    """Nothing is trained without its line and its entry."""
    site = load_site(write_site(tmp_path))
    site.state.mkdir()
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))

    assert one(machine.disk(site)).state == "fail"


def test_locks_are_told_apart(tmp_path):
    """What a dead agent left is harmless; a stranger on the ledger is not."""
    site = load_site(write_site(tmp_path))
    site.state.mkdir()
    (site.state / "agent.lock").write_text("4711\n")
    assert "4711 left its lock" in one(resources.locks(site)).text

    with (site.state / "ledger.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert one(resources.locks(site)).state == "fail"


def test_a_changed_ledger_and_log_are_failures(tmp_path):
    """And the first start does not begin on them."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    hub.ask(agent, hub.ticket(study, hub.publish(study)))
    agent.close()
    assert [one(check(agent.site)).state for check in books.checks()] == ["ok"] * 4

    for name in ("ledger.sqlite", "audit.jsonl", "approvals.jsonl", "egress.jsonl"):
        path = agent.site.state / name
        path.write_bytes(path.read_bytes().replace(b"toy", b"tox"))
    path.write_bytes(b"{}\n")

    assert [one(check(agent.site)).state for check in books.checks()] == ["fail"] * 4
    assert main(["start", "--config", str(tmp_path / "north.yaml")]) == 1


def test_a_store_that_keeps_nobody_apart_is_a_warning(tmp_path):
    """A folder does not, and what was tried is taken away again."""
    hub = ToyHub(tmp_path)
    before = hub.store.list("")

    row = one(rights.others(load_site(write_site(tmp_path))))

    assert row.state == "warn"
    assert hub.store.list("") == before


@pytest.mark.s3
def test_a_sites_own_credentials_are_denied_the_rest(tmp_path, s3_server, s3_url, monkeypatch):
    """With the policy that `site policy` makes: ok. With the owner's credentials: all that they can is listed."""
    keys = s3_server.ceph.add_user("fedrounds-north-doctor")
    principal = "arn:aws:iam:::user/fedrounds-north-doctor"
    words = [
        "site",
        "policy",
        "north",
        "--kind",
        "ceph",
        "--store",
        s3_url,
        "--principal",
        principal,
        "--apply",
    ]
    from flows.cli import main as hub_main

    assert hub_main(words) == 0
    path = write_site(tmp_path)
    path.write_text(path.read_text().replace((tmp_path / "store").as_uri(), f"'{s3_url}'"))
    site = load_site(path)
    assert "write to shared" in one(rights.others(site)).text
    assert one(rights.others(site)).state == "warn"

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)

    assert one(rights.others(site)).state == "ok"
    assert one(rights.throughput(site)).state == "ok"


def test_another_unit_is_seen_by_its_range(tmp_path):
    """Age in months: clipped without a sound in training, said by the doctor, without a value."""
    hub, path = ToyHub(tmp_path), write_site(tmp_path)
    hub.publish(a_study())
    rows = list(csv.reader((tmp_path / "north.csv").open()))
    for row in rows[1:]:
        row[0] = str(float(row[0]) * 12)
    with (tmp_path / "north.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)

    row = one(data.ranges(load_site(path)))

    assert row.state == "warn"
    assert row.text.startswith("values outside the study's range: age (")


def test_persons_who_are_in_twice_are_seen(tmp_path):
    """Exact copies where no column says whose they are."""
    hub, path = ToyHub(tmp_path), write_site(tmp_path)
    hub.publish(a_study())
    assert one(data.persons(load_site(path))).state == "ok"
    text = (tmp_path / "north.csv").read_text()
    (tmp_path / "north.csv").write_text(text + text.partition("\n")[2])
    assert one(data.persons(load_site(path))).state == "warn"
    path.write_text(path.read_text().replace("csv:north.csv'", "csv:north.csv', person: patient"))
    assert one(data.persons(load_site(path))).state == "ok"


def test_a_recipe_that_nobody_approved_is_not_run_by_the_doctor(tmp_path, monkeypatch):
    """Whoever runs it is one of the institution's people: a hub must not reach into their process."""
    hub, mark = ToyHub(tmp_path), tmp_path / "mark"
    attacks.install(monkeypatch, tmp_path)
    monkeypatch.setenv(attacks.MARK, str(mark))
    site = load_site(write_site(tmp_path))
    study = attacks.a_hostile_study("nothing")
    hub.store.put(layout.study_key("toy", study.sha256), hub.key.seal(study))
    hub.propose(a_study())  # the site has keys and people who vote, for another version
    approve_here(hub.config, a_study())
    kinds = (studies.studies, data.ranges, data.persons, dryrun.dry_run)

    rows = {row.name: row for kind in kinds for row in kind(site)}

    assert not mark.exists()
    assert (rows[name := f"study toy (terms {study.sha256[:8]})"].state, rows[name].cure) == (
        "warn", "fedrounds-site review toy",
    )  # fmt: skip
    assert {row for row in rows if study.sha256[:8] in row} == {name}


def test_an_approved_recipe_works_behind_walls_for_the_doctor_too(tmp_path, monkeypatch):
    """It reads the records and nothing else, knows no credential, and leaves nothing behind."""
    hub, mark = ToyHub(tmp_path), tmp_path / "mark"
    attacks.install(monkeypatch, tmp_path)
    monkeypatch.setenv(attacks.MARK, str(mark))
    site = load_site(write_site(tmp_path))
    apart.runner.cache_clear()  # its template must find the package
    good, bad = attacks.a_hostile_study("nothing"), attacks.a_hostile_study("read", site.state / "site.key")
    try:
        for study, state in ((good, "ok"), (bad, "fail")):
            hub.store.put(layout.study_key("toy", study.sha256), hub.key.seal(study))
            approve_here(hub.config, study)
            rows = [row for kind in (studies.studies, data.persons) for row in kind(site)]
            assert [row.state for row in rows if row.name == f"study toy (terms {study.sha256[:8]})"] == [
                state
            ]
            assert len([row for row in rows if row.name.startswith("persons")]) == (state == "ok")
    finally:
        apart.runner().close()
        apart.runner.cache_clear()

    assert not mark.exists()
    assert "hostile.recipe" not in sys.modules
    assert not list(site.state.glob("doctor-*"))


def test_the_first_start_waits_for_a_healthy_machine(tmp_path, capsys):
    """Without the records there is nothing to start for; who insists is on record."""
    path = write_site(tmp_path)
    (tmp_path / "north.csv").unlink()

    assert main(["start", "--config", str(path)]) == 1

    said = capsys.readouterr().err
    assert "FAIL  source toy" in said
    assert "->" in said
    assert last_look(load_site(path)) is None


def test_the_whole_look_is_remembered(tmp_path, capsys):
    """For the receipts; and it has the rows that the page explains."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    agent.step()
    hub.publish(a_study())

    assert main(["doctor", "--config", str(tmp_path / "north.yaml"), "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) >= 30
    names = {row["name"].removesuffix("toy").split(" toy ")[0].strip() for row in rows}
    page = PAGE.read_text()
    assert not [name for name in names if f"`{name}`" not in page and f"`{name} NAME`" not in page]
    assert last_look(agent.site).failed == ()


def test_every_word_of_the_short_form_is_explained():
    """Who reads it in a report finds what it means."""
    assert not [word for word in get_args(Concern) if f"`{word}`" not in PAGE.read_text()]
