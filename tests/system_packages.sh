#!/bin/sh
# Installs what tests need beyond Python: a Chromium with its driver. Only as root on a Debian-like system;
# elsewhere the browser tests skip and say why.
set -eu
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "chromium is not installed and cannot be installed from here: browser tests will skip"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
