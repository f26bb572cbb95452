#!/bin/bash
# Process 1 of a machine: see enter.sh.
set -eu
directory=$1 name=$2 address=$3

echo > "$directory/$name/entered"
read -r < "$directory/$name/up"
hostname "$name"
ip link set lo up
ip addr add "$address/24" dev eth0
ip link set eth0 up
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir -p /run/sshd /srv/myapp/releases
ln -s "$directory/venv" /srv/myapp/venv
cp "$directory/key.pub" /run/authorized_keys
cat > /run/sshd_config <<END
ListenAddress $address
HostKey $directory/$name/host_key
AuthorizedKeysFile /run/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
PidFile none
UsePAM no
UseDNS no
Subsystem sftp internal-sftp
END
exec /usr/sbin/sshd -D -e -f /run/sshd_config
