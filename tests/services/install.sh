#!/usr/bin/env bash
# `make services`: Debian packages of the servers that the tests start: S3 (Ceph's gateway; tests/services/ceph.py),
# PostgreSQL and Redis (tests/services/databases.py). Asks nothing, does nothing where they are present. Without them those
# tests skip and say so. The tests start servers of their own; Debian may also start the packages' services, which they
# do not use: `systemctl disable --now postgresql redis-server` ends those.
set -euo pipefail

packages="radosgw ceph-osd ceph-mon ceph-common postgresql redis-server"
programs="redis-server radosgw radosgw-admin ceph-osd ceph-mon ceph-authtool monmaptool osdmaptool setpriv"

missing=""
for program in $programs; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
if [ -z "$missing" ]; then
    echo "S3 server, PostgreSQL and Redis for the tests: installed"
    exit 0
fi

skip() {
    echo "S3 server, PostgreSQL or Redis for the tests: not installed, their tests will skip. $1"
    exit 0
}

command -v apt-get >/dev/null 2>&1 ||
    skip "This is no Debian or Ubuntu: install Ceph's monitor, OSD, RADOS gateway and command line, PostgreSQL and Redis; missing:$missing"
root=""
if [ "$(id -u)" -ne 0 ]; then
    root="sudo -n"
    $root true 2>/dev/null || skip "Run as a user who may: sudo apt-get install --no-install-recommends $packages"
fi

echo "Servers for the tests: installing $packages"
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
# shellcheck disable=SC2086  # several packages, several words
$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages
