#!/bin/sh
# Installs what tests need beyond Python: a Chromium with its driver, and Slurm with munge. Only as root on a Debian-like
# system; elsewhere the tests that need them skip and say why.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
packages=""
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then packages="chromium chromium-driver"; fi
for pair in munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client; do
    if ! command -v "${pair%%:*}" >/dev/null; then packages="$packages ${pair##*:}"; fi
done
if [ -z "$packages" ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, and cannot be installed from here: $packages; the tests that need them will skip"
    exit 0
fi
# The packages would start system services; the tests start their own daemons in folders of their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $packages >/dev/null
