"""A real S3 server for tests: one monitor, one disk in memory, one gateway of Ceph, on loopback.

It is up within a second, because nothing asks anything of a running cluster:
the map that the monitor starts with already holds the disk, and there is no
manager and no authentication between the daemons. What S3 clients see (keys,
policies, conditional writes, TLS) is the gateway's and is all there. The
tick is short because a wake-up that gets lost in the start waits for the next
one, by default 5 s. Nothing outlives the test process, even one that is killed.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from urllib.request import urlopen

from tests.services.certificates import make_certificate

PROGRAMS = (
    "radosgw",
    "radosgw-admin",
    "ceph-mon",
    "ceph-osd",
    "ceph-authtool",
    "monmaptool",
    "osdmaptool",
    "setpriv",
)
START_S = 60  # a second where the machine is idle

CONFIG = """
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{mon}
public_network = 127.0.0.0/8
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
ms_mon_service_mode = crc
ms_mon_cluster_mode = crc
keyring = {folder}/keyring
run_dir = {folder}
log_file = {folder}/$name.log
admin_socket =
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
objecter_tick_interval = 0.2
mon_allow_pool_size_one = true
mon_data_avail_warn = 1
mon_data_avail_crit = 1
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_objectstore = memstore
memstore_device_bytes = 8589934592
[mon.a]
mon_data = {folder}/mon
[osd.0]
osd_data = {folder}/osd
[client.rgw.a]
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint={address}:{http} ssl_endpoint={address}:{https} ssl_certificate={certificate} ssl_private_key={key} tcp_nodelay=1
rgw_thread_pool_size = 32
rgw_dns_name =
"""


class Keys(NamedTuple):
    """An S3 user's credentials."""

    access_key: str
    secret_key: str


def missing_programs() -> list[str]:
    return [each for each in PROGRAMS if shutil.which(each) is None]


class Ceph:
    """A running cluster. Use as a context manager, from the thread that outlives it."""

    def __init__(self, folder: Path, address: str = "127.0.0.1"):
        mon, http, https = _free_ports(3)
        self.endpoint = f"http://{address}:{http}"
        self.tls_endpoint = f"https://localhost:{https}"
        self.ca_bundle, certificate, key = make_certificate(folder)
        self._folder = folder
        self._config = folder / "ceph.conf"
        self._monitor = f"v2:127.0.0.1:{mon}"
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._fsid = str(uuid.uuid4())
        self._config.write_text(
            CONFIG.format(
                fsid=self._fsid,
                address=address,
                mon=mon,
                http=http,
                https=https,
                folder=folder,
                certificate=certificate,
                key=key,
            )
        )

    def __enter__(self) -> Ceph:
        try:
            self._make_disks()
            self._start("ceph-mon", "-i", "a")
            self._start("ceph-osd", "-i", "0")
            self.start_gateway()
            self._await()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the daemons at once: nothing on their disks is wanted any more."""
        for daemon in self._daemons:
            daemon.kill()
        for daemon in self._daemons:
            daemon.wait()

    @property
    def gateway(self) -> subprocess.Popen[bytes]:
        """The process that speaks S3. What it has acknowledged is kept by the others."""
        return self._daemons[-1]

    def start_gateway(self) -> None:
        """The first one, or its successor at the same address."""
        self._start("radosgw", "-n", "client.rgw.a")

    def answers(self) -> bool:
        try:
            with urlopen(self.endpoint, timeout=2):
                return True
        except OSError:
            return False

    def add_user(self, name: str) -> Keys:
        keys = Keys(uuid.uuid4().hex[:20], uuid.uuid4().hex)
        given = [
            "--uid",
            name,
            "--display-name",
            name,
            "--access-key",
            keys.access_key,
            "--secret-key",
            keys.secret_key,
        ]
        self._run("radosgw-admin", "user", "create", *given)
        return keys

    def _make_disks(self) -> None:
        at = self._folder
        for name in ("mon", "osd", "rgw"):
            (at / name).mkdir()
        self._run(
            "ceph-authtool",
            "--create-keyring",
            f"{at}/keyring",
            "--gen-key",
            "-n",
            "mon.",
            "--cap",
            "mon",
            "allow *",
        )
        self._run(
            "monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self._monitor, f"{at}/monmap"
        )
        self._run("osdmaptool", "--createsimple", "1", f"{at}/osdmap")
        maps = ["--monmap", f"{at}/monmap", "--osdmap", f"{at}/osdmap", "--keyring", f"{at}/keyring"]
        self._run("ceph-mon", "--mkfs", "-i", "a", "--fsid", self._fsid, *maps)
        self._run("ceph-osd", "--mkfs", "-i", "0", "--no-mon-config", "--osd-uuid", str(uuid.uuid4()))

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [program, *arguments, "-c", str(self._config)],
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {arguments[0]} failed: {done.stdout[-500:]} {done.stderr[-2000:]}")

    def _start(self, program: str, *arguments: str) -> None:
        """Start a daemon that the kernel kills when this process dies, however it dies."""
        guarded = ["setpriv", "--pdeathsig", "KILL", program, *arguments, "-f", "-c", str(self._config)]
        with (self._folder / f"{program}.out").open("wb") as out:
            self._daemons.append(subprocess.Popen(guarded, stdout=out, stderr=out))

    def _await(self) -> None:
        patience = time.monotonic() + START_S
        while time.monotonic() < patience and all(daemon.poll() is None for daemon in self._daemons):
            if self.answers():
                return
            time.sleep(0.03)
        logs = "\n".join(
            f"{p.name}: {p.read_text(errors='replace')[-600:]}" for p in self._folder.glob("*.log")
        )
        raise RuntimeError(f"the S3 server did not start within {START_S} s\n{logs}")


class S3Server(NamedTuple):
    """What a test gets: a server, a user, and the user's bucket."""

    ceph: Ceph
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str

    def url(self, prefix: str) -> str:
        """A store's address; credentials come from the environment."""
        return f"s3://{self.bucket}/{prefix}?endpoint={quote(self.endpoint)}&region=us-east-1"

    def client(self, keys: Keys | None = None, **settings: Any) -> Any:
        """boto3's own client, to set the scene and to look from outside."""
        import boto3

        keys = keys or Keys(self.access_key, self.secret_key)
        session = boto3.session.Session(keys.access_key, keys.secret_key, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.endpoint, **settings)


def serve_s3(ceph: Ceph, bucket: str = "fedrounds") -> S3Server:
    keys = ceph.add_user("owner")
    server = S3Server(ceph, ceph.endpoint, *keys, bucket)
    server.client().create_bucket(Bucket=bucket)
    return server


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
