#!/usr/bin/env bash
# Starts a real Slurm on this one machine: munge, one slurmctld, one slurmd per simulated node. For tests.
#
#     SLURM_TEST_HOME=FOLDER tests/slurm/start_slurm.sh      # at most 55 characters: unix sockets
#     export SLURM_CONF=$SLURM_TEST_HOME/slurm.conf                     # then sbatch, squeue, scancel use it
#     SLURM_TEST_HOME=FOLDER tests/slurm/stop_slurm.sh
#
# Everything lives in that folder and listens on 127.0.0.x; /etc/slurm, /etc/munge and /var are neither read nor written.
# There is no accounting: the harder case, as sacct fails and slurmctld forgets what has ended. `start_slurm.sh slurmctld`
# starts only the controller again, for the test that stops it.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
home=${SLURM_TEST_HOME:?}
nodes=2 cpus=4 base_port=${SLURM_TEST_PORT:-27817}
case $home in *[[:space:]]*) echo "SLURM_TEST_HOME has white space: $home" >&2; exit 1 ;; esac
if [ ${#home} -gt 55 ]; then echo "SLURM_TEST_HOME is longer than 55 characters: $home" >&2; exit 1; fi

wait_for() { # wait_for WHAT COMMAND...
    local what=$1; shift
    for _ in $(seq 600); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    echo "no $what after 30 s; the last lines of the logs:" >&2
    tail -n 5 "$home"/log/* >&2 || true
    exit 1
}
# Detached: a daemon that kept our stdout would make whoever reads it wait for ever.
launch() { setsid "$@" </dev/null >>"$home/log/output" 2>&1; }
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
is_up() { scontrol ping | grep 'is UP' >/dev/null; } # not grep -q: see pipefail
all_idle() { [ "$(sinfo -h -N -p low -o %T | grep -cE '^(idle|mixed|allocated|completing)$')" -eq $nodes ]; }

export SLURM_CONF=$home/slurm.conf
unset SLURM_JOB_ID SLURM_JOBID SLURM_CLUSTERS
if [ "${1:-}" = slurmctld ]; then
    launch slurmctld -f "$SLURM_CONF"
    wait_for "answer of slurmctld" is_up
    wait_for "idle nodes" all_idle
    exit 0
fi

mkdir -p "$home"/{run,log,state,spool}
chmod 755 "$home" "$home"/{run,log,spool}
port=$base_port
while busy=0; for ((p = port; p <= port + nodes + 1; p++)); do if taken "$p"; then busy=1; fi; done; [ $busy = 1 ]; do port=$((port + 10)); done
(umask 077 && head -c 1024 /dev/urandom >"$home/munge.key" && chmod 400 "$home/munge.key")
{
    cat <<END
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again
AuthInfo=socket=$home/run/munge.socket,cred_expire=5
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool/%n
SlurmctldPidFile=$home/run/slurmctld.pid
SlurmdPidFile=$home/run/slurmd-%n.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
EnforcePartLimits=ALL
# the nodes claim more cores than there are
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# without it a preempted job gets SIGTERM alone, which must do as well: see the tests
$([ "${SLURM_TEST_USER_SIGNAL:-1}" = 0 ] || echo "SlurmctldParameters=preempt_send_user_signal")
JobRequeue=1
KillWait=2
MinJobAge=300
MaxArraySize=1001
FirstJobId=$(((RANDOM * 32768 + RANDOM) % 60000 * 1000 + 1))
END
    for ((i = 1; i <= nodes; i++)); do # named by number: MASTER_ADDR resolves without /etc/hosts
        echo "NodeName=127.0.0.$i NodeHostname=localhost NodeAddr=127.0.0.$i Port=$((port + i)) CPUs=$cpus CoresPerSocket=$cpus RealMemory=65536"
    done
    echo "PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=30"
    echo "PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF"
} >"$SLURM_CONF"
# slurmd loads a cgroup plugin even when nothing uses one; v1 loads where /sys/fs/cgroup is not mounted too
printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$home/cgroup.conf"

launch munged --force --key-file="$home/munge.key" --socket="$home/run/munge.socket" --pid-file="$home/run/munged.pid" \
    --log-file="$home/log/munged.log" --seed-file="$home/munged.seed"
wait_for "socket of munged" test -S "$home/run/munge.socket"
launch slurmctld -f "$SLURM_CONF"
wait_for "answer of slurmctld" is_up
for ((i = 1; i <= nodes; i++)); do
    mkdir -p "$home/spool/127.0.0.$i"
    launch slurmd -f "$SLURM_CONF" -N "127.0.0.$i"
done
wait_for "idle nodes" all_idle
