# The VM's init: prepares the kernel, runs the job with its streams on virtio ports, reports its exit status.
# Ports (see setup/vm.mjs): 1 control, and either hvc0 (a terminal) or 2 input, 3 output, 4 errors.
# Run by busybox sh: applets need no exec of a dynamically linked program, which is slow under emulation.

b=/bin/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
job=/run/midonet-vm
here=/run/midonet-vm-streams

$b mkdir $here
$b hostname midonet-vm
$b ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
# No gre0, gretap0 and the like in every namespace as soon as one test loads the module.
echo 1 > /proc/sys/net/core/fb_tunnels_only_for_init_net
# The kernel loads openvswitch, vxlan, veth and the like by itself when they are first asked for, through modprobe.

. $job/terminal # end=MARK, rows=N, columns=N; rows=0 without a terminal
# The ports come up one by one, after their driver.
ports=4
[ "$rows" -gt 0 ] && ports=1
until first=$(echo /dev/vport*p1) && port=${first%1} && [ -c "$first" ] && [ -c "$port$ports" ]; do $b usleep 10000; done
exec 3<>"$first"
echo ready >&3

while read -r what first second <&3; do
  case $what in
    signal) $b kill "-$first" "-$($b cat $here/pid)" 2>&1 ;;
    resize) $b stty rows "$first" cols "$second" < /dev/hvc0 ;;
  esac
done &

if [ "$rows" -gt 0 ]; then
  # Held open: a terminal that nobody has open forgets its size.
  exec 5<>/dev/hvc0
  $b stty rows "$rows" cols "$columns" <&5
  $b setsid -c /bin/sh $job/command 3>&- 5>&- < /dev/hvc0 > /dev/hvc0 2>&1
  status=$?
  printf %s "$end" >&5
else
  # The job writes to pipes, which may be opened again through /dev/stdout; a virtio port may not.
  $b mkfifo $here/in $here/out $here/err
  exec 5<>$here/out 6<>$here/err
  $b cat "${port}2" > $here/in 3>&- 5>&- 6>&- &
  $b cat < $here/out > "${port}3" 3>&- 5>&- 6>&- &
  $b cat < $here/err > "${port}4" 3>&- 5>&- 6>&- &
  $b setsid /bin/sh -c 'echo $$ > "$0/pid"; exec /bin/sh "$1/command"' $here $job < $here/in > $here/out 2> $here/err 3>&- 5>&- 6>&-
  status=$?
  printf %s "$end" >&5
  printf %s "$end" >&6
fi

$b sync
echo "exit $status" >&3
# The launcher ends the VM when it has read everything; this is for when there is none any more.
$b sleep 30
echo o > /proc/sysrq-trigger
$b sleep 60
