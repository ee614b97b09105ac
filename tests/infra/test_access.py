"""A site's credentials reach its own mailbox alone: the policy, and the real server that keeps it."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest

from flows.cli import main
from infra.access.commands import access
from infra.access.policies import Place, bucket_policy, site_policy, without_site
from infra.errors import StoreError
from infra.store import open_store
from infra.store.s3client import read_address
from sites.runner import InlineRunner
from tests.sites.builders import ToyHub, a_study, an_agent

TERRAFORM = Path(__file__).parents[2] / "infra" / "terraform" / "main.tf"
STORE = "s3://bucket/pre?endpoint=https://s3.example.org"


def test_a_site_may_do_three_things_below_its_prefix():
    """Everything else is denied by not being allowed."""
    read, write, lists = site_policy(Place("bucket", "pre/"), "north")["Statement"]

    own = "arn:aws:s3:::bucket/pre/sites/north"
    assert read["Resource"] == ["arn:aws:s3:::bucket/pre/shared/*", f"{own}/*"]
    assert write["Resource"] == [f"{own}/out/*"]
    assert lists["Condition"] == {"StringLike": {"s3:prefix": ["pre/shared/*", "pre/sites/north/*"]}}
    assert {*read["Action"], *lists["Action"]} == {"s3:GetObject", "s3:ListBucket"}


def test_a_bucket_keeps_what_others_put_into_its_policy():
    """A second site, the same site again, and a statement of the owner's own."""
    own = {"Sid": "TlsOnly", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*"}
    policy = bucket_policy(Place("b"), "north", "arn:n", "arn:h", {"Version": "2012-10-17", "Statement": own})
    policy = bucket_policy(Place("b"), "south-2", "arn:s", "arn:h", policy)
    policy = bucket_policy(Place("b"), "north", "arn:new", None, policy)

    principals = [each["Principal"] for each in policy["Statement"]]
    assert principals == [
        "*",
        *[{"AWS": ["arn:h"]}] * 2,
        *[{"AWS": ["arn:s"]}] * 3,
        *[{"AWS": ["arn:new"]}] * 3,
    ]
    left = without_site(without_site(policy, "north"), "south-2")["Statement"]
    assert [each["Sid"] for each in left] == ["TlsOnly", "fedroundsHub", "fedroundsHubList"]
    assert all(re.fullmatch("[A-Za-z0-9]+", each["Sid"]) for each in policy["Statement"])


def test_terraform_gives_the_same_rights():
    """Two spellings of one promise; Terraform itself is not at hand where the tests run."""
    text = TERRAFORM.read_text().partition('data "aws_iam_policy_document" "site"')[2]

    for statement in site_policy(Place("B", "P"), "S")["Statement"]:
        block = text.partition(f'"{re.match("fedrounds([A-Z][a-z]+)", statement["Sid"])[1]}"')[2]
        block = block.partition("statement {")[0]
        assert set(re.findall(r'"(s3:[A-Z]\w+)"', block)) == set(statement["Action"])
        patterns = re.findall(r'"\$\{[^"]*?\*"', block)
        wanted = statement["Resource"] if "Condition" not in statement else []
        wanted = wanted or [f"{each}" for each in statement["Condition"]["StringLike"]["s3:prefix"]]
        plain = [
            p.strip('"')
            .replace("${aws_s3_bucket.federation.arn}", "arn:aws:s3:::B")
            .replace("${var.prefix}", "P")
            .replace("${each.key}", "S")
            for p in patterns
        ]
        assert plain == wanted


@pytest.mark.parametrize("kind", ["aws", "ceph", "garage", "s3-bucket-policy"])
def test_each_kind_of_store_says_what_to_do(kind, capsys):
    """Commands for whoever owns the store, with the bucket's name in them."""
    words = ["site", "policy", "north", "--kind", kind, "--store", STORE, "--json"]
    assert main([*words, "--principal", "arn:aws:iam::1:user/n"]) == 0
    facts = json.loads(capsys.readouterr().out)

    assert "bucket" in json.dumps(facts["commands"] + [facts["policy"]])
    assert (facts["policy"] is None) == (kind == "garage")


def test_garage_is_not_said_to_keep_sites_apart(capsys):
    """Its keys know no prefixes; who chooses it must read that."""
    assert main(["site", "policy", "north", "--kind", "garage", "--store", STORE]) == 0
    assert "read, overwrite and remove every object" in capsys.readouterr().out.replace("\n", " ")


def test_what_cannot_be_done_is_said(tmp_path, capsys):
    """A folder has no credentials, AWS users are not made here, and a policy names somebody."""
    with pytest.raises(StoreError, match="--principal"):
        access(read_address(STORE), "north", "s3-bucket-policy")
    for words in (["--store", "file:x"], ["--store", STORE, "--kind", "aws", "--apply"]):
        assert main(["site", "policy", "north", *words]) == 4
    assert main(["site", "policy", "../north", "--store", STORE]) == 2
    assert "cannot be a site's name" in capsys.readouterr().err


@pytest.mark.s3
def test_a_site_with_these_credentials_does_its_whole_round_and_nothing_else(
    tmp_path, s3_server, s3_url, monkeypatch, capsys
):
    """`--apply` on the real server, by its owner; then the agent, and what a taken-over agent would try."""
    bucket, keys = f"federation-{uuid.uuid4().hex[:8]}", s3_server.ceph.add_user("fedrounds-north")
    s3_server.client().create_bucket(Bucket=bucket)
    url = f"s3://{bucket}/pre?endpoint={quote(s3_server.endpoint)}&region=us-east-1"
    for site in ("north", "south"):
        assert main(["site", "policy", site, "--kind", "ceph", "--store", url, "--apply"]) == 0
    said = capsys.readouterr().out.partition("site south")[2]
    assert "use its own mailbox now" in said
    assert "sites/south/out" in said and "sites/north/out" not in said  # --json has the whole of the policy
    hub = ToyHub(tmp_path, open_store(url))
    for key in ("sites/south/in/bell", "sites/south/out/card.json", "hub/pins/x"):
        hub.store.put(key, b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    own = open_store(url)
    agent, study = an_agent(tmp_path, InlineRunner(), store=own), a_study()
    given = hub.publish(study)

    assert hub.ask(agent, hub.ticket(study, given)).update is not None
    assert hub.ask(agent, hub.ticket(study, given, operation="evaluate")).scores is not None
    agent.home.delivery.probe()
    denied = [
        *(lambda k=k: own.get(k) for k in ("sites/south/out/card.json", "hub/pins/x", "sites/south/x")),
        *(
            lambda k=k: own.put(k, b"forged")
            for k in (
                "shared/hub.json",
                "hub/x",
                "sites/south/out/x",
                "sites/north/in/bell",
                "sites/north",
                "x",
            )
        ),
        *(lambda k=k: own.delete(k) for k in ("shared/hub.json", "sites/south/out/card.json")),
        *(lambda k=k: own.list(k) for k in ("", "sites/", "hub/", "sites/south/", "sites/nort")),
    ]
    for call in denied:
        with pytest.raises(StoreError, match="AccessDenied"):
            call()
