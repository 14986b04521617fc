#!/bin/sh
# Builds the guest's root file system as an initramfs.
#
#   build_initramfs.sh KERNEL_DIRECTORY OUTPUT GUEST_SCRIPT [PROGRAM...]
#
# KERNEL_DIRECTORY as fetch_kernel.sh prints it. The guest script becomes /test.sh. Programs are
# paths or names in PATH; they are put into /bin with the libraries that ldd names.
set -eu
kernel=$1
output=$2
script=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/mnt" \
         "$root/etc" "$root/modules" "$root/var" "$root/data"
ln -s bin "$root/sbin"

busybox=$(command -v busybox)
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
  [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
done

add_program() {
  path=$1
  case $path in
    */*) ;;
    *) path=$(PATH=$PATH:/usr/sbin:/sbin command -v "$1") || { echo "$1 is not installed" >&2; exit 1; } ;;
  esac
  rm -f "$root/bin/$(basename "$1")"
  cp -L "$path" "$root/bin/$(basename "$1")"
  strip -g "$root/bin/$(basename "$1")" 2>/dev/null || true
  ldd "$path" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\// {print $1}' |
  while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    [ -e "$root$library" ] || cp -L "$library" "$root$library"
  done
}
for program in "$@"; do add_program "$program"; done

# Modules in the order in which they are to be loaded.
version=$(ls "$kernel/lib/modules")
for module in virtio_pci virtio_blk nbd xfs fuse loop; do
  modprobe -d "$kernel" -S "$version" --show-depends "$module" 2>/dev/null |
  awk '$1 == "insmod" {print $2}'
done | awk '!seen[$0]++' | while read -r file; do
  cp "$file" "$root/modules/"
  basename "$file" >> "$root/modules/order"
done

cp "$here/guest_init" "$root/init"
cp "$here/guest_lib.sh" "$root/guest_lib.sh"
cp "$script" "$root/test.sh"
chmod 755 "$root/init" "$root/test.sh"
printf 'root:x:0:0:root:/:/bin/sh\n' > "$root/etc/passwd"
printf '127.0.0.1 localhost\n' > "$root/etc/hosts"
(cd "$root" && find . | cpio -o -H newc --quiet) > "$output"  # an emulated CPU unpacks for long
