#!/bin/bash
# The machine's first process once its root is there: what an init does, the command in /run/results/command, the end.
# Arguments: where Debian's packages are unpacked, where compiled Python is, where the command runs.
linux=$1 repository=$3
export PYTHONPYCACHEPREFIX=$2
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$linux/usr/sbin:$linux/sbin:$linux/usr/bin HOME=/root LANG=C.UTF-8
export BONDVPN_VM=1 PY_COLORS=0 COLUMNS=120
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind "$linux/lib/modules" /lib/modules
mkdir /run/lock /run/results
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 results /run/results
modprobe --all tun ppp_generic  # or nobody makes their /dev nodes
ip link set lo up
cd "$repository" || exit
bash /run/results/command </dev/null
echo $? >/run/results/status
sync
echo 0 >/proc/sys/kernel/printk
poweroff -ff
