#!/bin/busybox sh
# volumed itself on a kernel with nbd: file systems on kernel devices that outlive it.
. /guest_lib.sh
export HOME=/tmp
start_volumed() {
  volumed --data-dir /data/cvol --run-dir /run/cvol --http off --docker-plugin-dir off \
    --attach-method kernel --journal-size 64MiB --disk-capacity 6GiB --buffer-size 128MiB \
    --nbd-listen 127.0.0.1:10809 >> /tmp/volumed.log 2>&1 &
  daemon=$!
  wait_for 30 cvol status
}
kill_volumed() {
  kill -9 $daemon
  wait $daemon 2> /dev/null
}
# The kernel's name of a volume's device: "nbd0".
device_of() {
  for backend in /sys/block/nbd*/backend; do
    case $(cat "$backend") in cvol:*:"$1") basename "$(dirname "$backend")" ;; esac
  done
}
folder_of() { echo "/data/cvol/mounts/$1/data"; }
space_kib() { df -k "$(folder_of "$1")" | awk 'END {print $(NF - 4)}'; }
begin_load() {
  fio --name=load-$1 --directory="$(folder_of $1)" --size=24M --bs=16k --rw=randrw --direct=1 \
    --ioengine=libaio --iodepth=16 --verify=crc32c --verify_backlog=256 --time_based --runtime=30 \
    > /tmp/fio-$1.log 2>&1 &
}

check "volumed starts" start_volumed
for fs in ext4 xfs; do
  check "create $fs" cvol volume create $fs --fs $fs --size 400MiB
  check "mount $fs" cvol volume mount $fs
  check "it is a kernel device ($fs)" test -n "$(device_of $fs)"
  check "the mount is there ($fs)" is_mounted /data/cvol/mounts/$fs
done
say "load on both, volumed killed twice"
begin_load ext4
load_ext4=$!
begin_load xfs
load_xfs=$!
sleep 3
for round in 1 2; do
  kill_volumed
  check "volumed starts again ($round)" start_volumed
  sleep 8
done
wait $load_ext4
check "fio verify saw no error (ext4)" test $? -eq 0
wait $load_xfs
check "fio verify saw no error (xfs)" test $? -eq 0
check "no I/O error in the kernel log" no_io_errors
for fs in ext4 xfs; do
  grep -E 'READ:|WRITE:|clat.*max' /tmp/fio-$fs.log
  check "still mounted ($fs)" is_mounted /data/cvol/mounts/$fs
  before=$(space_kib $fs)
  check "grow $fs" cvol volume resize $fs 600MiB
  check "the file system has grown ($fs, from $before KiB)" \
    test "$(space_kib $fs)" -gt $((before + 150000))
done

check "create raw" cvol volume create raw --size 64MiB
check "nbd-client over TCP" nbd-client -N raw -b 4096 127.0.0.1 10809 /dev/nbd9
head -c 4194304 /dev/urandom > /tmp/pattern
check "write by TCP" dd if=/tmp/pattern of=/dev/nbd9 bs=1M conv=fsync
echo 3 > /proc/sys/vm/drop_caches
dd if=/dev/nbd9 of=/tmp/read bs=1M count=4 2> /dev/null
check "read by TCP" cmp /tmp/pattern /tmp/read
check "nbd-client -d" nbd-client -d /dev/nbd9

for fs in ext4 xfs; do
  sum=$(sha256sum "$(folder_of $fs)"/load* | sha256sum)
  check "unmount $fs" cvol volume unmount $fs
  check "its device is free ($fs)" test -z "$(device_of $fs)"
  check "mount again ($fs)" cvol volume mount $fs
  check "same content ($fs)" test "$sum" = "$(sha256sum "$(folder_of $fs)"/load* | sha256sum)"
  check "unmount again ($fs)" cvol volume unmount $fs
  check "attach $fs" cvol volume attach $fs
done
check "e2fsck is clean" e2fsck -fn /dev/$(device_of ext4)
check "xfs_repair -n is clean" xfs_repair -n /dev/$(device_of xfs)
for fs in ext4 xfs; do
  check "detach $fs" cvol volume detach $fs
  check "remove $fs" cvol volume rm $fs
done
kill -TERM $daemon
wait $daemon
check "volumed ends in order" test $? -eq 0
check "no I/O error in the kernel log" no_io_errors
[ $failures -eq 0 ] || { tail -60 /tmp/volumed.log; tail -30 /tmp/fio-*.log; dmesg | tail -40; }
exit $failures
