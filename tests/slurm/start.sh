#!/usr/bin/env bash
# Start a Slurm of one node, this machine, with its files in the folder given: real sbatch, srun and scontrol for tests.
# Needs root and Debian's packages slurm-wlm and munge; installs them if apt-get can (start.sh --install FOLDER).
set -euo pipefail
if [ "$1" = --install ]; then
	shift
	command -v slurmctld munged >/dev/null ||
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge; } >&2
fi
folder=$(realpath "$1")
host=$(hostname -s)
mkdir -p "$folder/state" "$folder/spool"
# Free ones, so that another Slurm may run on this machine.
ports=($(python3 -c 'import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets: s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'))

if ! munge -n >/dev/null 2>&1; then
	[ -s /etc/munge/munge.key ] || { umask 077; dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none; }
	chown munge: /etc/munge/munge.key
	install -d -o munge -m 0755 /run/munge
	install -d -o munge -m 0700 /var/log/munge /var/lib/munge
	setpriv --reuid munge --regid munge --clear-groups munged || munge -n >/dev/null
fi

cat >"$folder/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=20
MpiDefault=none
ReturnToService=2
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=4000 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
export SLURM_CONF="$folder/slurm.conf"
slurmctld
slurmd
for _ in $(seq 240); do
	[ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && exit 0
	sleep 0.5
done
echo "the node did not become idle; see $folder/slurmctld.log and $folder/slurmd.log" >&2
exit 1
