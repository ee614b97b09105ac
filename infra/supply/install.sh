#!/bin/sh
# The first installation of a site, without any network. Checks first: signature, then every file; only then pip runs.
#   sh install.sh --key fedrounds-release.pem --verify             check, install nothing
#   sh install.sh --key fedrounds-release.pem [--root FOLDER]      check, then install (default /opt/fedrounds)
# Get the key on another way than the bundle, and compare its sha256 with the publisher by telephone. This script is
# itself in the bundle: who does not trust it runs its two checks by hand, see docs/hospital-it.md.
# Needs: sh, openssl 3, sha256sum, and the Python that the bundle names. Later versions come by
# `fedrounds-site upgrade`.
set -eu
umask 022

say() { echo "$*"; }
die() { echo "error: $*" >&2; exit 3; }

here=$(cd "$(dirname "$0")" && pwd)
key="" root=/opt/fedrounds verify_only=""
while [ $# -gt 0 ]; do
    case "$1" in
        --key) key=${2:?--key needs a file}; shift 2 ;;
        --root) root=${2:?--root needs a folder}; shift 2 ;;
        --verify) verify_only=yes; shift ;;
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown option $1; see --help" ;;
    esac
done
[ -n "$key" ] || die "name the release key: --key fedrounds-release.pem"
[ -f "$key" ] || die "no key at $key"
key=$(cd "$(dirname "$key")" && pwd)/$(basename "$key")

cd "$here"
openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig >/dev/null 2>&1 ||
    die "the bundle is not signed by the key in $key; use nothing of it"
found=$(find . -mindepth 1 ! -path ./wheels ! -path ./SHA256SUMS ! -path ./SHA256SUMS.sig | sed 's|^\./||' | LC_ALL=C sort)
listed=$(sed -n 's/^[0-9a-f]\{64\}  //p' SHA256SUMS | LC_ALL=C sort)
[ "$found" = "$listed" ] || die "there are files that are not in the signed list, or some are missing; use nothing of it"
[ -z "$(find . -type l)" ] || die "there is a link among the files; use nothing of it"
sha256sum --check --strict --quiet SHA256SUMS || die "a file is not the one that was signed; use nothing of it"

read -r _ name version python platform <SHA256SUMS
[ "$name" = fedrounds-site ] || die "this is a bundle of something else"
say "verified: fedrounds-site $version for $python on $platform, $(echo "$listed" | wc -l) files, all as signed"
[ -z "$verify_only" ] || exit 0

[ ! -e "$root/current" ] || die "$root holds an installation: $root/current/bin/fedrounds-site upgrade BUNDLE"
command -v "$python" >/dev/null || die "$python is not installed; install it with its venv module"
home=$root/versions/$version
rm -rf "$home"
mkdir -p "$root/versions"
say "installing into $home"
"$python" -m venv "$home"
PIP_CONFIG_FILE=/dev/null "$home/bin/python" -m pip --isolated --quiet --disable-pip-version-check install \
    --no-index --no-deps --require-hashes --no-compile --find-links wheels --requirement requirements.txt
"$home/bin/python" -m pip --disable-pip-version-check check >/dev/null || die "the installation is not whole"
# compiles what the agent uses, and shows that it loads
"$home/bin/python" -P -c 'from sites.warm import load; load()' || die "the installation does not load"
cp sbom.cdx.json "$home/"
cp "$key" "$root/release.pem"
sha256sum SHA256SUMS | cut -d' ' -f1 >"$home/.complete"
ln -s "versions/$version" "$root/current.new"
mv -T "$root/current.new" "$root/current"
say "installed: $root/current/bin/fedrounds-site"
