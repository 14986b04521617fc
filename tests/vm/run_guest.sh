#!/bin/sh
# Boots Debian's cloud kernel in QEMU (no KVM needed) with one guest script and waits for its word.
#
#   run_guest.sh GUEST_SCRIPT [PROGRAM...]
#
# Environment: CVOL_VM_TIMEOUT seconds (default 600), CVOL_TEST_CACHE (kernel), CVOL_VM_MEMORY
# (default 2G). Exit code 0: the guest passed; 77: something needed is not installed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
script=$1
shift
for program in qemu-system-x86_64 cpio busybox fio mkfs.ext4 mkfs.xfs nbd-client; do
  PATH=$PATH:/usr/sbin:/sbin command -v $program > /dev/null ||
    { echo "SKIP: $program is not installed"; exit 77; }
done
for program in "$@"; do  # those of this test that the system is to have
  [ "${program#*/}" != "$program" ] || PATH=$PATH:/usr/sbin:/sbin command -v "$program" > /dev/null ||
    { echo "SKIP: $program is not installed"; exit 77; }
done
kernel=$("$here/fetch_kernel.sh")
work=$(mktemp -d)
# The guest's disk: in memory if all of it has room there. A file system that discards what is freed
# takes long over a file of many extents, and whoever syncs something waits for it.
disk=$work
room=$(df -k --output=avail /dev/shm 2> /dev/null | tail -n 1 | tr -d ' ')
[ "${room:-0}" -lt 8388608 ] || disk=$(mktemp -d -p /dev/shm)
qemu=
trap '[ -z "$qemu" ] || kill -9 $qemu 2> /dev/null || true; rm -rf "$work" "$disk"' EXIT
trap 'exit 1' INT TERM
"$here/build_initramfs.sh" "$kernel" "$work/initramfs" "$script" \
  fio mkfs.ext4 e2fsck resize2fs mkfs.xfs xfs_repair xfs_growfs "$@"
truncate -s 8G "$disk/scratch"
qemu-system-x86_64 -accel tcg,thread=single -m "${CVOL_VM_MEMORY:-2G}" -nographic -no-reboot \
  -nodefaults -serial stdio -monitor none -net none -cpu max \
  -kernel "$kernel"/boot/vmlinuz-* -initrd "$work/initramfs" \
  -append "console=ttyS0 quiet panic=-1 rdinit=/init" \
  -drive file="$disk/scratch",if=virtio,format=raw,cache=unsafe \
  > "$work/console" 2>&1 < /dev/null &
qemu=$!
left=${CVOL_VM_TIMEOUT:-600}
while kill -0 $qemu 2> /dev/null && [ "$left" -gt 0 ]; do
  sleep 1
  left=$((left - 1))
done
tr -d '\r' < "$work/console"
if [ "$left" -le 0 ]; then
  echo "FAIL: the guest did not end within ${CVOL_VM_TIMEOUT:-600} s"
  exit 1
fi
wait $qemu || true
qemu=
tr -d '\r' < "$work/console" | grep -q '^CVOL-VM-RESULT: PASS'
