#!/bin/busybox sh
# CSI's node calls on a kernel with nbd: a cluster of three nodes and etcd in this guest, cvol-csi
# beside node 1, where the pods are. Volume "far" (ext4) has its copies on nodes 2 and 3, volume "near"
# (xfs) on nodes 1 and 2, with the primary on node 1. Both are in use while they grow, while volumed of
# node 1 is killed, which serves both devices and is near's primary, and while far's primary is killed.
# At the end node 1 is fenced with a write in its kernel.
. /guest_lib.sh
export HOME=/tmp
grown=$((448 * 1024 * 1024))

cvol_at() {  # node, arguments of cvol
  local at=$1
  shift
  cvol --api unix:/run/node$at/api.sock "$@"
}
launch_volumed() { # node
  method=none  # the kernel's devices are all node 1's
  [ $1 = 1 ] && method=kernel
  rm -f /run/node$1/api.sock
  volumed --node-name node$1 --data-dir /data/node$1 --run-dir /run/node$1 --http off \
    --metadata etcd:127.0.0.1:2379 --replication-listen 127.0.0.1:$((9500 + 16 * $1)) \
    --docker-plugin-dir off --attach-method $method --journal-size 64MiB --disk-capacity 2GiB \
    --buffer-size 64MiB >> /tmp/volumed$1.log 2>&1 &
  eval "daemon$1=$!"
}
start_volumed() {  # a look for the socket is cheaper here than a program that finds none
  launch_volumed $1
  wait_for 60 test -S /run/node$1/api.sock && wait_for 60 cvol_at $1 status
}
kill_volumed() {
  eval "pid=\$daemon$1"
  kill -9 $pid
  wait $pid 2> /dev/null
}
start_cluster() {
  etcd --data-dir /data/etcd --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 \
    --log-level warn --logger zap > /tmp/etcd.log 2>&1 &
  wait_for 60 wget -q -O /dev/null http://127.0.0.1:2379/health || return 1
  for node in 1 2 3; do start_volumed $node || return 1; done
  cvol-csi --endpoint unix:///run/csi.sock --mode all --api unix:/run/node1/api.sock \
    > /tmp/csi.log 2>&1 &
  plugin=$!
  wait_for 30 test -S /run/csi.sock && csi Probe && test "$(answer_of value)" = true
}

# One call, made again as orchestrators do while the fault is a passing one (DEADLINE_EXCEEDED,
# ABORTED, UNAVAILABLE). The answer is in /tmp/answer.
csi() {
  for attempt in 1 2 3 4 5 6 7 8 9 10; do
    csi_call ${socket:-/run/csi.sock} "$@" > /tmp/answer
    code=$?
    case $code in 4 | 10 | 14) sleep 1 ;; *) return $code ;; esac
  done
  return $code
}
answer_of() { sed -n "s/.*$1: \"*\([^\" ]*\)\"*.*/\1/p" /tmp/answer; }  # a field of it
used_as() {  # block, or a file system
  how="mount { fs_type: '$1' }"
  [ $1 = block ] && how="block {}"
  echo "volume_capability { $how access_mode { mode: SINGLE_NODE_SINGLE_WRITER } }"
}
create() { # name use replicas node...
  volume=$1 use=$2 replicas=$3
  shift 3
  places=
  for node in "$@"; do
    places="$places preferred { segments { key: 'topology.cvol.io/node' value: '$node' } }"
  done
  csi CreateVolume "name: '$volume' $(used_as $use | sed s/volume_capability/volume_capabilities/)
    capacity_range { required_bytes: $((320 * 1024 * 1024)) }
    parameters { key: 'replicas' value: '$replicas' } accessibility_requirements { $places }" &&
    eval "id_$volume=$(answer_of volume_id)"
}
id_of() { eval "echo \$id_$1"; }
publish() { # name use: the way to a pod
  id="volume_id: '$(id_of $1)' $(used_as $2)"
  csi ControllerPublishVolume "$id node_id: 'node1'" &&
    csi NodeStageVolume "$id staging_target_path: '/pods/stage/$1'" &&
    csi NodePublishVolume "$id staging_target_path: '/pods/stage/$1' target_path: '/pods/$1'"
}
unpublish() {
  id="volume_id: '$(id_of $1)'"
  csi NodeUnpublishVolume "$id target_path: '/pods/$1'" &&
    csi NodeUnstageVolume "$id staging_target_path: '/pods/stage/$1'" &&
    csi ControllerUnpublishVolume "$id node_id: 'node1'"
}
grow() { # controller, then node; the answer has the new size
  csi ControllerExpandVolume "volume_id: '$(id_of $1)' capacity_range { required_bytes: $grown }" &&
    test "$(answer_of node_expansion_required)" = true &&
    csi NodeExpandVolume "volume_id: '$(id_of $1)' volume_path: '/pods/$1'
      capacity_range { required_bytes: $grown }" && test "$(answer_of capacity_bytes)" = $grown
}

device_of() {  # "nbd0"
  for backend in /sys/block/nbd*/backend; do
    case $(cat "$backend") in cvol:*:"$1") basename "$(dirname "$backend")" ;; esac
  done
}
bytes_of() { echo $(($(cat /sys/block/$(device_of $1)/size) * 512)); }
# Of what is mounted at the path: changes when it is unmounted and mounted again.
mount_id() { awk -v path=$1 '$5 == path {print $1}' /proc/self/mountinfo; }
type_at() { awk -v path=$1 '$5 == path {for (i = 7; $i != "-"; ++i); print $(i + 1)}' \
  /proc/self/mountinfo; }
space_kib() { df -k $1 | awk 'END {print $(NF - 4)}'; }
primary_of() {  # volume, node that is asked: the number of the primary's node
  cvol_at $2 volume explain $1 | sed -n 's/^The replica on node node\([0-9]\) is the primary.*/\1/p'
}
is_primary() { test "$(primary_of $1 $3)" = $2; }  # volume, node, node that is asked
has_moved() { now=$(primary_of $1 $3); test -n "$now" && test "$now" != $2; }
in_sync() { cvol_at 1 volume explain $1 | grep -q "; $2 in sync"; }
# Pass after pass until it is enough. Each verifies what it wrote.
run_load() {
  while [ ! -e /tmp/enough ]; do
    fio --name=load --directory=/pods/$1 --size=4M --bs=16k --rw=randrw --direct=1 \
      --ioengine=libaio --iodepth=4 --rate_iops=10,10 --verify=crc32c --verify_backlog=128 \
      >> /tmp/fio-$1.log 2>&1 || return 1
  done
}
write_synced() { dd if=/dev/urandom of=/pods/$1/after bs=64k count=8 conv=fsync; }

check "etcd, three nodes and cvol-csi start" start_cluster
[ $failures -eq 0 ] || { tail -40 /tmp/volumed*.log /tmp/csi.log /tmp/etcd.log; exit 1; }
check "create far on nodes 2 and 3" create far ext4 2 node2 node3
check "create near on nodes 1 and 2" create near xfs 2 node1 node2
mkdir -p /pods/stage
for volume in far near; do
  use=ext4
  [ $volume = near ] && use=xfs
  check "publish $volume ($use)" publish $volume $use
  check "a pod sees $use ($volume)" test "$(type_at /pods/$volume)" = $use
  check "it is a kernel device ($volume)" test -n "$(device_of $volume)"
  eval "device_$volume=$(device_of $volume) mount_$volume=$(mount_id /pods/$volume)"
done
check "near's primary is on node 1" wait_for 20 is_primary near 1 1
check "far's is not" has_moved far 1 1

say "load on both"
run_load far &
load_far=$!
run_load near &
load_near=$!
sleep 2
for volume in far near; do
  before=$(space_kib /pods/$volume)
  check "grow $volume" grow $volume
  check "the kernel sees its size ($volume)" test "$(bytes_of $volume)" = $grown
  check "the file system has grown ($volume, from $before KiB)" \
    test "$(space_kib /pods/$volume)" -gt $((before + 100000))
done
kill_volumed 1
check "near has another primary than node 1" wait_for 20 has_moved near 1 2
sleep 1
check "volumed of node 1 starts again" start_volumed 1
check "a write to near ends" write_synced near
check "near has two copies in sync again" wait_for 60 in_sync near 2
lost=$(primary_of far 1)
kill_volumed $lost
check "far has another primary than node $lost" wait_for 20 has_moved far $lost 1
check "a write through the new primary ends" write_synced far
check "volumed of node $lost starts again" start_volumed $lost
check "the load still runs" kill -0 $load_far $load_near
touch /tmp/enough
wait $load_far
check "fio verify saw no error (far)" test $? -eq 0
wait $load_near
check "fio verify saw no error (near)" test $? -eq 0
check "no I/O error in the kernel log" no_io_errors
for volume in far near; do
  grep -E 'READ:|WRITE:|clat.*max' /tmp/fio-$volume.log
  eval "device=\$device_$volume mount=\$mount_$volume"
  check "same device ($volume)" test "$(device_of $volume)" = $device
  check "same mount ($volume)" test "$(mount_id /pods/$volume)" = $mount
  check "still writable ($volume)" write_synced $volume
done

for volume in far near; do
  check "$volume has two copies in sync again" wait_for 60 in_sync $volume 2
done
has_sum() { test "$(sha256sum /pods/$1/load* | sha256sum)" = "$2"; }
is_sound() { # volume, check of its file system
  cvol_at 1 volume attach $1 && $2 /dev/$(device_of $1) && cvol_at 1 volume detach $1
}
for volume in far near; do
  sum=$(sha256sum /pods/$volume/load* | sha256sum)
  eval "sum_$volume=\$sum"
  use=$(type_at /pods/$volume)
  check "unpublish $volume" unpublish $volume
  check "its device is free ($volume)" test -z "$(device_of $volume)"
  check "its copies are equal ($volume)" cvol_at 1 volume verify $volume
  check "publish $volume again" publish $volume $use
  check "same content ($volume)" has_sum $volume "$sum"
done
check "unpublish near again" unpublish near
check "xfs_repair -n is clean" is_sound near "xfs_repair -n"
check "no I/O error in the kernel log" no_io_errors

say "node 1 is fenced with writes in its kernel"
late_writes() {  # they wait while volumed is away
  dd if=/tmp/late of=/pods/raw bs=4096 seek=100 conv=notrunc,fsync > /tmp/dd-raw.log 2>&1 &
  late_raw=$!
  dd if=/dev/urandom of=/pods/far/late bs=64k count=32 conv=fsync > /tmp/dd-far.log 2>&1 &
  late_far=$!
}
take_at_2() { # volume use
  csi ControllerPublishVolume "volume_id: '$(id_of $1)' node_id: 'node2' $(used_as $2)"
}
give_back_at_2() { csi ControllerUnpublishVolume "volume_id: '$(id_of $1)' node_id: 'node2'"; }
write_at_2() {
  nbd-client -unix /run/node2/nbd.sock -N raw -b 4096 /dev/nbd9 &&
    dd if=/tmp/new of=/dev/nbd9 bs=4096 seek=100 conv=fsync && nbd-client -d /dev/nbd9
}
has_ended() { ! kill -0 $1; }
has_io_errors() { test -n "$(io_errors)"; }
read_raw() {
  cvol_at 1 volume attach raw && dd if=/dev/$(device_of raw) bs=4096 skip=100 count=1 of=/tmp/read
}
head -c 4096 /dev/urandom > /tmp/late
head -c 4096 /dev/urandom > /tmp/new
check "create raw" create raw block 2 node2 node3
check "publish raw" publish raw block
fenced_raw=$(device_of raw) fenced_far=$(device_of far)
cvol-csi --endpoint unix:///run/csi2.sock --mode controller --api unix:/run/node2/api.sock \
  > /tmp/csi2.log 2>&1 &
plugin2=$!
kill_volumed 1
late_writes
sleep 1
socket=/run/csi2.sock
check "node 2 takes raw" take_at_2 raw block
check "node 2 writes to raw" write_at_2
check "node 2 gives raw back" give_back_at_2 raw
check "node 2 takes far" take_at_2 far ext4
check "node 2 gives far back" give_back_at_2 far
socket=
check "the writes still wait" kill -0 $late_raw $late_far
check "volumed of node 1 starts again" start_volumed 1
for volume in raw far; do
  eval "late=\$late_$volume device=\$fenced_$volume"
  check "the write ends ($volume)" wait_for 30 has_ended $late
  wait $late
  check "with an error ($volume)" test $? -ne 0
  check "the device is free ($volume)" wait_for 30 test ! -e /sys/block/$device/pid
done
check "the file system is not mounted any more" test -z "$(type_at /pods/far)"
check "the kernel log has the errors" has_io_errors
check "of these devices only" \
  test -z "$(io_errors | grep -v -e "$fenced_raw" -e "$fenced_far")"
check "unpublish raw" unpublish raw
check "read raw" read_raw
check "what node 2 wrote is there" cmp /tmp/new /tmp/read
check "detach raw" cvol_at 1 volume detach raw
check "unpublish far" unpublish far
check "publish far once more" publish far ext4
check "same content (far)" has_sum far "$sum_far"
check "unpublish far once more" unpublish far
check "e2fsck -fn is clean" is_sound far "e2fsck -fn"
for volume in far near raw; do
  check "delete $volume" csi DeleteVolume "volume_id: '$(id_of $volume)'"
done
check "no device is left" test -z "$(cat /sys/block/nbd*/backend 2> /dev/null)"
check "no mount and no target is left" \
  test "$(ls /pods)$(grep -c ' /pods/' /proc/self/mountinfo)" = stage0
check "no record is left" test "$(cvol_at 1 volume ls -o json | tr -d ' \n')" = "[]"
kill -TERM $plugin $plugin2 $daemon1 $daemon2 $daemon3
for process in $daemon1 $daemon2 $daemon3; do
  wait $process
  check "volumed ends in order" test $? -eq 0
done
grep -E 'call|Node|Controller' /tmp/csi.log | tail -40
[ $failures -eq 0 ] || { tail -40 /tmp/volumed*.log /tmp/csi.log; tail -30 /tmp/fio-*.log; }
exit $failures
