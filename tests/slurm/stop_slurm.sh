#!/usr/bin/env bash
# Stops what start_slurm.sh started in SLURM_TEST_HOME, and nothing else: the daemons by the pid files of that folder, each
# checked against /proc first, and what jobs of this cluster left running. `stop_slurm.sh slurmctld` stops the controller alone.
set -uo pipefail # so no grep -q behind a pipe: it ends early and the writer before it fails
home=${SLURM_TEST_HOME:?}
export PATH="$PATH:/usr/sbin:/sbin" SLURM_CONF=$home/slurm.conf

ours() { # is process $1 one of this cluster's? Its command line or environment names the folder.
    { tr '\0' '\n' <"/proc/$1/cmdline"; tr '\0' '\n' <"/proc/$1/environ"; } 2>/dev/null | grep -F "$home/" >/dev/null
}
stop() { # stop NAME: by its pid file
    local pid
    pid=$(cat "$home/run/$1.pid" 2>/dev/null) || return 0
    if [ -z "$pid" ] || ! ours "$pid"; then return 0; fi
    kill -TERM "$pid" 2>/dev/null
    for _ in $(seq 200); do
        if ! ours "$pid"; then return 0; fi
        sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null
}
job_processes() { # of jobs and of their shepherds: only they have this SLURM_CONF and a job id, or are called slurmstepd
    local folder
    for folder in /proc/[0-9]*; do
        { tr '\0' '\n' <"$folder/environ"; } 2>/dev/null | grep -xF "SLURM_CONF=$SLURM_CONF" >/dev/null || continue
        if [ "$(cat "$folder/comm" 2>/dev/null)" = slurmstepd ] || { tr '\0' '\n' <"$folder/environ"; } 2>/dev/null | grep "^SLURM_JOB_ID=[0-9]" >/dev/null; then
            echo "${folder#/proc/}"
        fi
    done
}

if [ "${1:-}" = slurmctld ]; then
    stop slurmctld
    exit 0
fi
timeout 10 scancel --user="$(id -un)" 2>/dev/null
for pid in $(job_processes); do kill -KILL "$pid" 2>/dev/null; done
for file in "$home"/run/slurmd-*.pid; do
    name=$(basename "$file" .pid)
    stop "$name"
done
stop slurmctld
stop munged
for pid in $(job_processes); do kill -KILL "$pid" 2>/dev/null; done
exit 0
