#!/bin/bash
# Run a systemd of our own, in namespaces of its own, and a command beside it:
#
#     unshare --mount --pid --fork --kill-child --net --ipc --uts enter.sh DIRECTORY COMMAND...
#
# DIRECTORY/units has the units.  $SYSTEMD_UNPACKED may name a directory in which another
# version of systemd was unpacked (dpkg-deb -x of systemd, libsystemd-shared, libsystemd0).
# Nothing of this is seen outside, and all of it ends with this process, which is number 1
# of its namespace.
set -eu
directory=$1
shift

unpacked=${SYSTEMD_UNPACKED:-}
if [ -n "$unpacked" ]; then
    libraries=$unpacked/usr/lib/$(uname -m)-linux-gnu
    export PATH=$unpacked/bin:$PATH LD_LIBRARY_PATH=$libraries:$libraries/systemd
fi
systemd=$(readlink -f "$unpacked/lib/systemd/systemd")
export systemd

mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up
mount -t tmpfs tmpfs /run
# It looks for this directory, to see whether the machine has been booted by it.
mkdir -p /run/systemd/system /run/user/0 /run/cgroups

# It moves each process of the control group that it is started in: it must be
# one that nobody else is in.
mount -t cgroup2 none /run/cgroups
group=/run/cgroups/txtableflip-$(basename "$directory")-$RANDOM
mkdir "$group"
echo 0 > "$group/cgroup.procs"
export group directory
exec unshare --cgroup bash -eu -c '
mount -t cgroup2 none /sys/fs/cgroup
export XDG_RUNTIME_DIR=/run/user/0 SYSTEMD_UNIT_PATH=$directory/units HOME=$directory
mkdir -p "$directory/units"
for unit in basic exit shutdown sockets timers paths; do
    cp "/usr/lib/systemd/user/$unit.target" "$directory/units"
done
cp /usr/lib/systemd/user/systemd-exit.service "$directory/units"
ln -sf basic.target "$directory/units/default.target"
mkdir -p /run/systemd/journald.conf.d
printf "[Journal]\nReadKMsg=no\nStorage=volatile\n" > /run/systemd/journald.conf.d/own.conf
"$(dirname "$systemd")/systemd-journald" > "$directory/journald.log" 2>&1 &
for _ in $(seq 200); do
    [ -S /run/systemd/journal/stdout ] && break
    sleep 0.05
done
$systemd --user > "$directory/systemd.log" 2>&1 &
manager=$!
for _ in $(seq 200); do
    [ -S /run/user/0/systemd/private ] && break
    sleep 0.05
done
"$@"
status=$?
systemctl --user exit || true
wait "$manager" || true
exit $status
' enter "$@"
