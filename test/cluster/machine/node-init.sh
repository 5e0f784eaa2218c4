#!/bin/sh
# The first process of a node: sh node-init.sh NODE_DIR CLUSTER_DIR PROGRAMS_DIR NAME PAUSE
# Started in new mount, process and host-name namespaces and in the node's network namespace. The node sees the machine's files through an
# overlay in memory, so that what it writes changes nothing outside, but for the folders of its own that stay over a reboot of the node.
set -eu
node=$1 cluster=$2 programs=$3 name=$4 pause=$5

# /proc is still the machine's, so this is our id there.
read -r pid _ </proc/self/stat
mount --make-rprivate /
hostname "$name"

view=$node/view
root=$view/root
mkdir -p "$view"
mount -t tmpfs -o mode=0755 tmpfs "$view"
mkdir "$view/upper" "$view/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$view/upper,workdir=$view/work" overlay "$root"

mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t proc proc "$root/proc"

own() {
  mkdir -p "$1" "$root$2"
  mount --bind "$1" "$root$2"
}
own "$node/run" /run
own "$node/var-lib" /var/lib
own "$node/var-log" /var/log
own "$node/cni-config" /etc/cni/net.d
own "$node/cni-programs" /opt/cni/bin
own "$cluster" "$cluster"
own "$programs" "$programs"
mkdir -p "$root/run/netns"

cd "$root"
pivot_root . mnt
cd /
umount -l /mnt
mount --make-rshared /
echo "$pid" >"$node/init.pid"
exec "$pause"
