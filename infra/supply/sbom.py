"""The bill of materials of a bundle: CycloneDX 1.6, JSON.

One component per wheel, with its hash, licence and package address, as the
wheel's own metadata give them. Source: cyclonedx.org/docs/1.6/json.
"""

from __future__ import annotations

import uuid
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from infra.supply.bundle import file_sha256


def bill(wheels: list[Path], version: str, now: str) -> dict[str, Any]:
    """The document.

    Args:
        wheels: all of the bundle; the one named fedrounds is what it is about.
        version: of that one.
        now: time of the build, ISO 8601 with zone.
    """
    components = [_component(wheel) for wheel in wheels]
    subject = next(each for each in components if each["name"] == "fedrounds")
    others = [each for each in components if each is not subject]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, "".join(each["hashes"][0]["content"] for each in components))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"timestamp": now, "component": {**subject, "type": "application", "version": version}},
        "components": others,
        "dependencies": [
            {"ref": subject["bom-ref"], "dependsOn": [each["bom-ref"] for each in others]},
            *({"ref": each["bom-ref"]} for each in others),
        ],
    }


def metadata(wheel: Path) -> Message:
    """What a wheel says of itself."""
    with zipfile.ZipFile(wheel) as file:
        name = next(each for each in file.namelist() if each.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(file.read(name), headersonly=True)


def _component(wheel: Path) -> dict[str, Any]:
    facts = metadata(wheel)
    name, version = str(facts["Name"]), str(facts["Version"])
    address = f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"
    return {
        "type": "library",
        "bom-ref": address,
        "name": name,
        "version": version,
        "purl": address,
        "hashes": [{"alg": "SHA-256", "content": file_sha256(wheel)}],
        **_licence(facts),
    }


def _licence(facts: Message) -> dict[str, Any]:
    """As an expression where the package gives one, else by name; absent where it says nothing."""
    if facts["License-Expression"]:
        return {"licenses": [{"expression": str(facts["License-Expression"])}]}
    classified = [
        str(each).rpartition(" :: ")[2]
        for each in facts.get_all("Classifier", [])
        if str(each).startswith("License ::")
    ]
    said = str(facts["License"] or "").strip()
    named = classified or ([said] if said and "\n" not in said else [])
    return {"licenses": [{"license": {"name": each}} for each in named]} if named else {}
