"""What would run here: a study's terms in plain language, its code, and what is new since the last approval.

STUDY is the name of a study that the hub has proposed (`fedrounds study
publish`), or a study file. The code is the one installed at this site, which is
what would run; none of it is run for this. Where a version was approved before,
the differences are shown; --source prints the whole code all the same.

examples:
  fedrounds-site review heart --config site.yaml
  fedrounds-site review heart --config site.yaml --source | less
  fedrounds-site review study.yaml --config site.yaml --json
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from sites.commands.studyword import add_study

if TYPE_CHECKING:
    from sites.proposals import Version
    from sites.settings import Site
    from sites.votes import Vote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument(
        "--source", action="store_true", help="print the whole code, also where it is compared"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    from sites.proposals import find
    from sites.settings import load_site

    site = load_site(args.config)
    version = find(args.study, site)
    facts = review(version, site)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts, args.source or facts["approved_before"] is None)
    return 0


def review(version: Version, site: Site) -> dict[str, Any]:
    """What `--json` prints."""
    from sites.terms import modules, sentences
    from sites.voting import approvals_of

    approvals = approvals_of(site)
    standing = approvals.standing(site.settings.policy.approval)
    name, wanted = version.study.name, version.approval_sha256
    before = standing.in_force.get(name) or approvals.last_approved(name)
    return {
        "study": name,
        "approval_sha256": wanted,
        "study_sha256": version.study.sha256,
        "recipe_sha256": version.recipe_sha256,
        "signed_by_hub": version.from_hub,
        "terms": version.study.model_dump(mode="json"),
        "text": sentences(version, site),
        "modules": [{"module": m, "sha256": digest, "bytes": size} for m, digest, size in modules(version)],
        "sources": {module: raw.decode(errors="replace") for module, raw in version.sources.items()},
        "approved": name in standing.in_force and standing.in_force[name].approval_sha256 == wanted,
        "approved_by": standing.voices.get(name, {}).get(wanted, []),
        "required": site.settings.policy.approval.required,
        "approved_before": None
        if before is None
        else before.model_dump(mode="json") | {"approval_sha256": before.approval_sha256},
        "changes": _changes(before, version, site),
    }


def _changes(before: Vote | None, version: Version, site: Site) -> dict[str, list[str]]:
    """What is new against a version that was approved before: facts, terms, code."""
    from sites.approved import kept_sources, kept_study
    from sites.identity import own_version
    from sites.terms import changed_sources, changed_terms

    if before is None:
        return {"facts": [], "terms": [], "code": []}
    facts, study, sources = [], kept_study(site.state, before), kept_sources(site.state, before)
    if before.version != own_version():
        facts.append(f"fedrounds: {before.version} -> {own_version()}")
    if set(before.operations) != set(version.operations):
        facts.append(f"operations: {', '.join(before.operations)} -> {', '.join(version.operations)}")
    if before.parameters_bytes != version.parameters_bytes:
        facts.append(f"bytes of the model: {before.parameters_bytes} -> {version.parameters_bytes}")
    lost = "what was approved before is not kept any more, or was changed: read all of it again"
    return {
        "facts": facts,
        "terms": [lost] if study is None else changed_terms(study, version.study),
        "code": [lost] if sources is None else changed_sources(sources, version.sources),
    }


def _print(facts: dict[str, Any], with_source: bool) -> None:
    print("\n".join(facts["text"]))
    print("  modules of the code:")
    for module in facts["modules"]:
        print(f"    {module['sha256']}  {module['bytes']:>7}  {module['module']}")
    before = facts["approved_before"]
    if before is not None:
        changes = facts["changes"]
        print(f"\nNew since {before['person']} approved it at {before['approval_sha256'][:12]}:")
        for title in ("facts", "terms", "code"):
            print(f"  {title}:" + ("" if changes[title] else " nothing"))
            for line in changes[title]:
                print(f"    {line}")
        if not (changes["terms"] or changes["code"]) and len(changes["facts"]) == 1:
            print(f"  only this has changed: {changes['facts'][0]}")
    if with_source:
        for module, text in facts["sources"].items():
            print(f"\n----- {module}\n{text.rstrip()}")
    print(f"\n{_state(facts)}")


def _state(facts: dict[str, Any]) -> str:
    name, short = facts["study"], facts["approval_sha256"][:12]
    if facts["approved"]:
        return f"This version is approved, by {', '.join(facts['approved_by'])}."
    voices = ", ".join(facts["approved_by"]) or "nobody"
    return (
        f"This version is not approved: {facts['required']} must, {voices} has. To approve exactly this:\n"
        f"  fedrounds-site approve {name} --config site.yaml --sha256 {short}"
    )
