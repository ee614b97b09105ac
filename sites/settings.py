"""site.yaml: what an institution tells its own agent, as a strict model.

Light: neither numpy nor pandas, the idle agent reads it. Reading the file and
naming the line of an error is infra/yamlfile.py's work; reading a source is
sources/'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from infra.errors import FileError
from infra.yamlfile import load
from sites.policyterms import Policy
from tasks.contracts import Name

SCHEMES = ("csv",)  # of sources; each is a module of sites/sources
STORE_SCHEMES = ("file", "s3")

Column = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
SyslogAddress = Annotated[
    str, StringConstraints(pattern=r"^(udp:[^\s/]+:[0-9]{1,5}|unix:/\S+)$", max_length=300)
]
Mark = str | int | float  # a number stands for all its spellings: 0 is 0, 0.0 and 00


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(_Settings):
    """Where one study's records lie and how they are written."""

    url: str  # scheme:path, such as csv:data/cleveland.csv; relative to the folder of site.yaml
    missing: tuple[Mark, ...] = ()  # values that mean missing in every column; empty cells always do
    missing_in: dict[Column, tuple[Mark, ...]] = Field(default_factory=dict)  # the same for single columns
    columns: tuple[Column, ...] | None = Field(
        default=None, min_length=1
    )  # only where the file has no header
    population: Name | None = (
        None  # whose budget it is, where the file's name changes; default: the file itself
    )
    person: Column | None = None  # the column that says whose a record is, where people have several
    separator: str = Field(default=",", min_length=1, max_length=1)

    @field_validator("url")
    @classmethod
    def _readable(cls, url: str) -> str:
        scheme, _, rest = url.partition(":")
        if scheme not in SCHEMES or not rest:
            known = " or ".join(f"{s}:" for s in SCHEMES)
            raise ValueError(
                f'cannot read "{url}"; expected {known} and a path, such as csv:data/records.csv'
            )
        return url

    @model_validator(mode="after")
    def _columns_fit(self) -> Source:
        if self.columns is None:
            return self
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("columns has a name twice; give each column a name of its own")
        for key, names in (
            ("person", [self.person or self.columns[0]]),
            ("missing_in", list(self.missing_in)),
        ):
            absent = sorted(set(names) - set(self.columns))
            if absent:
                raise ValueError(
                    f"{key} names {absent[0]!r}, which is not among columns; correct one of them"
                )
        return self


class Limits(_Settings):
    """What one data set may spend, over all studies and runs. These guarantee; nothing else here does."""

    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    min_records: int = Field(default=30, ge=1)


class Disclosure(_Settings):
    """How exact the figures are that leave the site."""

    min_held_out: int = Field(default=10, ge=1)  # fewer held-out records: no metric leaves
    decimals: int = Field(default=3, ge=0, le=4)
    own_figures: bool = (
        False  # under secure aggregation: show them beside the sum; else they always are shown
    )
    votes: bool = False  # in validation of groups, say one bit for each group of what held-out records tell
    records: bool = False  # let the hub know the number of records in a band, such as 200-999


class Testing(_Settings):
    """Never for real records."""

    seeded_noise: bool = (
        False  # noise that anybody can compute: protects nothing, refused unless policy.seeded_noise
    )
    canaries: bool = False  # train models that `study audit` plants canaries into


class Resources(_Settings):
    threads: int = Field(default=1, ge=1, le=1024)  # of training; more than 1 gives up bit-equal repeats
    parameters_mb: int = Field(default=1024, ge=1, le=65_536)  # MiB, of a model; a larger one is not fetched


class AuditSettings(_Settings):
    syslog: SyslogAddress | None = None  # udp:HOST:PORT or unix:/dev/log; gets a copy of every audit line


class SiteSettings(_Settings):
    """site.yaml."""

    site: Name
    store: str  # file:FOLDER or s3://bucket/prefix?endpoint=...
    sources: dict[Name, Source] = Field(default_factory=dict)  # by study
    limits: Limits
    disclosure: Disclosure = Disclosure()
    privacy_none: tuple[Name, ...] = ()  # studies that may take this site's updates without protection
    state: str | None = None  # folder of key, ledger and outbox; default: <site>.state beside site.yaml
    store_ca: str | None = None  # PEM file, where the store's certificate is from a private authority
    uploads: Literal["credentials", "presigned"] = (
        "credentials"  # presigned: tickets bring addresses to write to
    )
    proxy: str | None = None  # http://host:port, where the way out is through one
    resources: Resources = Resources()
    policy: Policy = Policy()
    audit: AuditSettings = AuditSettings()
    testing: Testing = Testing()

    @field_validator("store")
    @classmethod
    def _reachable(cls, store: str) -> str:
        scheme, _, rest = store.partition(":")
        host = scheme == "file" and rest.startswith("//") and not rest.startswith("///")
        if scheme not in STORE_SCHEMES or not rest or host:
            raise ValueError(
                f'cannot reach "{store}"; expected file:FOLDER, file:///FOLDER or s3://BUCKET/PREFIX'
            )
        return store


@dataclass(frozen=True)
class Site:
    """site.yaml with its place: `settings.store` and `store_ca` are absolute, sources begin at `base`."""

    settings: SiteSettings
    base: Path
    state: Path

    def in_simulation(self, state: Path, seeded_noise: bool = True) -> Site:
        """The same site with another state folder and no policy; its own budget is not touched."""
        policy = Policy(seeded_noise=seeded_noise)
        testing = Testing(seeded_noise=seeded_noise, canaries=True)
        changed = {"testing": testing, "policy": policy}
        return replace(self, settings=self.settings.model_copy(update=changed), state=state)


def load_site(path: Path) -> Site:
    """Read site.yaml.

    Raises:
        FileError: unreadable or wrong; names each line and its cure.
    """
    settings = load(path, SiteSettings).value
    base = path.resolve().parent
    absolute = {"store": _absolute_store(settings.store, base)}
    if settings.store_ca is not None:
        absolute["store_ca"] = str(base / settings.store_ca)
    state = base / (settings.state or f"{settings.site}.state")
    return Site(settings.model_copy(update=absolute), base, state)


def _absolute_store(store: str, base: Path) -> str:
    """file: and a relative folder as file:///..., anything else as it is."""
    if not store.startswith("file:"):
        return store
    folder = store.removeprefix("file:").removeprefix("//")
    if "\0" in unquote(folder):
        raise FileError(f"store: {store!r} is no folder's name; expected file:FOLDER")
    return (base / unquote(folder)).resolve().as_uri()
