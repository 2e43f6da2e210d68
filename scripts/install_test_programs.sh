#!/bin/sh
# Installs what the tests run and PyPI does not have, from Debian's packages, where that is possible and needed.
# What cannot be installed is said; its tests are then skipped with that reason, or fail under CI=true.
set -u

missing=""
want() { # want PROGRAM PACKAGE...
    program=$1
    shift
    command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || missing="$missing $*"
}

want radosgw radosgw ceph-common
want ceph-mon ceph-mon ceph-common
want ceph-osd ceph-osd
want radosgw-admin ceph-common
want monmaptool ceph-base
want ceph-authtool ceph-common
want chromium chromium
want clamd clamav-daemon
want ffmpeg ffmpeg
want lighttpd lighttpd
want nginx nginx-light
want curl curl
want wrk wrk

[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Not installed, since this is no Debian:$missing"
elif [ "$(id -u)" != 0 ]; then
    echo "Not installed, since this is not root (sudo apt-get install --no-install-recommends$missing):$missing"
else
    echo "Installing from Debian:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # RUNLEVEL=1: the packages' own services are not to be started, the tests start their own.
    export RUNLEVEL=1
    # shellcheck disable=SC2086
    if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null; }; then
        echo "apt-get could not install:$missing"
    fi
fi
exit 0
