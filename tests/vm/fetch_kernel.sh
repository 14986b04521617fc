#!/bin/sh
# Fetches Debian's cloud kernel and unpacks it under the cache directory; nothing is installed.
# Prints the directory: boot/vmlinuz-* and lib/modules/* below it.
#
#   fetch_kernel.sh [CACHE_DIRECTORY]      default $CVOL_TEST_CACHE or /var/cache/cvol-tests
set -eu
cache=${1:-${CVOL_TEST_CACHE:-/var/cache/cvol-tests}}
target=$cache/kernel
if [ ! -e "$target/complete" ]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/kernel.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
  [ -n "$package" ] || { echo "no linux-image-cloud-amd64: run apt-get update" >&2; exit 1; }
  (cd "$work" && apt-get download "$package" >&2 && dpkg-deb -x ./*.deb tree)
  version=$(ls "$work/tree/lib/modules")
  depmod -b "$work/tree" "$version"
  touch "$work/tree/complete"
  rm -rf "$target"
  mv "$work/tree" "$target"
fi
echo "$target"
