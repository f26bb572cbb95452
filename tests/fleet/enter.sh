#!/bin/bash
# Run a command beside some machines, each of namespaces of its own:
#
#     unshare --mount-proc --pid --fork --kill-child --net --ipc --uts \
#         enter.sh DIRECTORY PYTHON COUNT COMMAND...
#
# A machine has a network, process ids, a /srv and a /run of its own, and its process 1 is an
# sshd.  $DIRECTORY has what Ansible needs to reach them.  All of it ends with this process,
# which is number 1 of its namespace.
set -eu
directory=$1 python=$2 count=$3
here=$(dirname "$0")
shift 3

mount --make-rprivate /
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add fleet type bridge
ip addr add 10.77.0.1/24 dev fleet
ip link set fleet up

ssh-keygen -q -t ed25519 -N '' -f "$directory/key"
# Not the Python that Ansible finds; and nothing of one machine's state is in another.
cat > "$directory/inventory.ini" <<END
[all:vars]
ansible_user=root
ansible_become=false
ansible_python_interpreter=$python
ansible_ssh_private_key_file=$directory/key
ansible_ssh_common_args=-o UserKnownHostsFile=$directory/known_hosts
[web]
END

for number in $(seq "$count"); do
    name=web$number address=10.77.0.1$number
    mkdir "$directory/$name"
    ssh-keygen -q -t ed25519 -N '' -f "$directory/$name/host_key"
    echo "$address $(cut -d' ' -f1,2 "$directory/$name/host_key.pub")" >> "$directory/known_hosts"
    echo "$name ansible_host=$address" >> "$directory/inventory.ini"
    # A pipe tells that the machine is in its namespaces, and one that it has its network.
    mkfifo "$directory/$name/entered" "$directory/$name/up"
    unshare --mount --pid --net --uts --fork --kill-child --mount-proc \
        "$here/machine.sh" "$directory" "$name" "$address" > "$directory/$name/console" 2>&1 &
    echo $! > "$directory/$name/pid"
    read -r -t 60 < "$directory/$name/entered"
    ip link add "to-$name" type veth peer name eth0 netns $!
    ip link set "to-$name" master fleet up
    echo > "$directory/$name/up"
done
"$@"
