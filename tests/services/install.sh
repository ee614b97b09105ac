#!/usr/bin/env bash
# `make services`: Debian packages of the S3 server that the tests start (Ceph's gateway; tests/services/ceph.py).
# Starts nothing, asks nothing, does nothing where they are present. Without them those tests skip and say so.
set -euo pipefail

packages="radosgw ceph-osd ceph-mon ceph-common"
programs="radosgw radosgw-admin ceph-osd ceph-mon ceph-authtool monmaptool osdmaptool setpriv"

missing=""
for program in $programs; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
if [ -z "$missing" ]; then
    echo "S3 server for the tests: installed"
    exit 0
fi

skip() {
    echo "S3 server for the tests: not installed, its tests will skip. $1"
    exit 0
}

command -v apt-get >/dev/null 2>&1 ||
    skip "This is no Debian or Ubuntu: install Ceph's monitor, OSD, RADOS gateway and command line; missing:$missing"
root=""
if [ "$(id -u)" -ne 0 ]; then
    root="sudo -n"
    $root true 2>/dev/null || skip "Run as a user who may: sudo apt-get install --no-install-recommends $packages"
fi

echo "S3 server for the tests: installing $packages"
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
# shellcheck disable=SC2086  # several packages, several words
$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages
