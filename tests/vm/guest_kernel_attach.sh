#!/bin/busybox sh
# Kernel NBD by netlink, with a stand-in for volumed: the device outlives its server.
. /guest_lib.sh
size=$((512 * 1024 * 1024))
start_server() {
  kernel_attach_tool /data/tool /data/image $size > /tmp/device 2>> /tmp/server.log &
  server=$!
  wait_for 30 test -s /tmp/device
}
kill_server() {
  kill -9 $server
  wait $server 2> /dev/null
  : > /tmp/device
}

check "server starts and attaches" start_server
device=$(cat /tmp/device)
say "device $device backend $(cat /sys/block/${device#/dev/}/backend)"
check "size is right" test "$(cat /sys/block/${device#/dev/}/size)" = $((size / 512))
check "block size is 4096" test "$(cat /sys/block/${device#/dev/}/queue/logical_block_size)" = 4096
check "mkfs.ext4" mkfs.ext4 -q -b 4096 $device
mkdir -p /mnt/a
check "mount" mount -t ext4 $device /mnt/a

say "load with a connection ended, then with the server killed twice"
fio --name=load --directory=/mnt/a --size=32M --bs=16k --rw=randrw --direct=1 --ioengine=libaio \
    --iodepth=16 --verify=crc32c --verify_backlog=256 --time_based --runtime=25 \
    > /tmp/fio.log 2>&1 &
load=$!
sleep 3
kill -USR2 $server
sleep 3
for round in 1 2; do
  kill_server
  sleep 2
  check "server starts again ($round)" start_server
  check "same device ($round)" test "$(cat /tmp/device)" = "$device"
  sleep 5
done
wait $load
check "fio verify saw no error" test $? -eq 0
grep -E 'READ:|WRITE:' /tmp/fio.log
check "no I/O error in the kernel log" no_io_errors
check "still mounted" is_mounted /mnt/a
kill -USR1 $server
has_grown() { [ "$(cat /sys/block/${device#/dev/}/size)" = $((size / 256)) ]; }
check "device has grown" wait_for 10 has_grown
check "resize2fs" resize2fs $device
check "unmount" umount /mnt/a
check "fsck is clean" e2fsck -fn $device
kill -TERM $server
check "server detaches and ends" wait_for 15 sh -c "! kill -0 $server"
check "device is free" wait_for 5 test ! -e /sys/block/${device#/dev/}/pid
check "record is gone" test ! -e /data/tool/state/v1.json
[ $failures -eq 0 ] || { cat /tmp/server.log; tail -30 /tmp/fio.log; }
exit $failures
