"""The bill of materials is CycloneDX by CycloneDX's own schema."""

from __future__ import annotations

import json

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from infra.supply.bundle import file_sha256
from infra.supply.sbom import bill
from tests.infra.supply.wheels import a_wheel


def test_the_bill_is_valid_and_names_every_wheel_with_its_hash(tmp_path):
    """A scanner finds each package by its address and can compare the file."""
    wheels = [a_wheel(tmp_path, "fedrounds", "0.1.0"), a_wheel(tmp_path, "Some_Thing", "2.0+cpu")]

    document = bill(wheels, "0.1.0", "2026-01-01T00:00:00+00:00")

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    assert document["metadata"]["component"]["purl"] == "pkg:pypi/fedrounds@0.1.0"
    [other] = document["components"]
    assert other["purl"] == "pkg:pypi/some-thing@2.0%2Bcpu"
    assert other["hashes"] == [{"alg": "SHA-256", "content": file_sha256(wheels[1])}]
    assert other["licenses"] == [{"expression": "MIT"}]


def test_a_licence_that_is_told_the_old_way_is_named_and_none_is_invented(tmp_path):
    """Older packages give a classifier, some say nothing."""
    old = "Classifier: License :: OSI Approved :: MIT License\n"
    wheels = [
        a_wheel(tmp_path, "fedrounds", "0.1.0"),
        a_wheel(tmp_path, "old", says=old),
        a_wheel(tmp_path, "silent", says=""),
    ]

    document = bill(wheels, "0.1.0", "2026-01-01T00:00:00+00:00")

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    assert document["components"][0]["licenses"] == [{"license": {"name": "MIT License"}}]
    assert "licenses" not in document["components"][1]
