#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# init.sh — the first and only process of the virtual machine: runs one command, hands everything
# back, switches off.
#
# Words: the kernel's command line has vm.root (the checkout); the disk of the project holds
# vm-command, a script.  Standard output goes to the second serial port, standard error to the
# third; files in /results go to the third disk, as a tar archive, in the end.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs run /run
# Everything that is asked for at the serial console, so that a hang can be looked into.
echo 1 >/proc/sys/kernel/sysrq
ip link set lo up 2>/dev/null
# The kernel has patched itself, alone (boot.py): now the second processor.
echo 1 >/sys/devices/system/cpu/cpu1/online

root=$(sed -n 's/.*vm\.root=\([^ ]*\).*/\1/p' /proc/cmdline)
# Disks have the numbers in which they happened to answer; their serial numbers are ours.
for disk in /sys/block/nvme*; do
	case $(<"$disk/device/serial") in
	d1*) project=/dev/${disk##*/}p1 ;;
	d2*) results=/dev/${disk##*/} ;;
	esac
done
mkdir -p "$root"
mount "$project" "$root"
for port in /dev/ttyS1 /dev/ttyS2; do
	stty -F $port raw -echo -opost
done
cd "$root" || echo "init: no $root"
echo "vm: the command starts" >/dev/ttyS0
# Through pipes: programs write to a terminal as to a person.
{
	{
		bash "$root/vm-command" </dev/null
		echo $? >/results/status
	} 2>&3 | cat >/dev/ttyS1
} 3>&1 | cat >/dev/ttyS2
tar -C /results -cf "$results" .
sync
echo o >/proc/sysrq-trigger
# The power goes while this sleeps.
sleep 60
