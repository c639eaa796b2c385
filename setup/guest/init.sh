#!/bin/busybox sh
# First program of the VM, in its initramfs. Puts a throw-away layer over the host's file tree, and the checkout,
# writable, on top of that; then goes on with start.sh from the checkout.
# The kernel's command line says: midonet.checkout=FOLDER midonet.job=FOLDER midonet.modules=FOLDER

b=/bin/busybox
fail() { echo "midonet-vm: $*"; echo o > /proc/sysrq-trigger; $b sleep 60; }

$b mount -t proc proc /proc
while read -r module; do $b insmod "/modules/$module" || fail "cannot insert $module"; done < /modules/order
echo "midonet-vm: kernel runs"

for word in $($b cat /proc/cmdline); do
  case $word in
    midonet.checkout=*) checkout=${word#*=} ;;
    midonet.job=*) job=${word#*=} ;;
    midonet.modules=*) modules=${word#*=} ;;
  esac
done

$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose host /host || fail "cannot mount the host's files"
$b mount -t tmpfs -o size=75%,mode=755 layer /layer && $b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root || fail "cannot mount the overlay"

$b mount -t sysfs sys /root/sys
$b mount -t devtmpfs dev /root/dev
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts -o mode=620,ptmxmode=666,gid=5 devpts /root/dev/pts
for folder in /dev/shm /tmp; do $b mount -t tmpfs -o mode=1777 tmpfs "/root$folder"; done
while read -r folder; do
  $b mkdir -p "/root$folder" && $b mount -t tmpfs -o mode=755 tmpfs "/root$folder"
done < /own-folders
$b mkdir -p /root/run/lock /root/run/midonet-vm
$b mount -t cgroup2 cgroup2 /root/sys/fs/cgroup

release=$($b uname -r)
$b mkdir -p "/root/lib/modules/$release"
$b mount -o bind "/host$modules" "/root/lib/modules/$release" || fail "no modules in $modules"
$b mkdir -p "/root$checkout"
$b mount -o bind "/host$checkout" "/root$checkout" || fail "no checkout in $checkout"
$b mount -o bind "/host$job" /root/run/midonet-vm || fail "no job in $job"

$b mount -o move /proc /root/proc
exec $b switch_root /root /bin/busybox sh "$checkout/setup/guest/start.sh"
