#!/usr/bin/env bash
# Images for the end-to-end tests, made from Debian packages, since no registry may be at hand:
#   images.sh busybox     cvol-test-busybox: busybox-static, and /content, a directory with a file
#   images.sh postgres    cvol-test-postgres: PostgreSQL 15 of Debian 12; its entrypoint is below
# Imports into the engine of $DOCKER_HOST; does nothing if the image is there. The tree of postgres
# takes a minute to make; it is kept under $CVOL_TEST_CACHE (/var/cache/cvol-tests), under a name
# with the hash of this file.
set -euo pipefail

recipe=$(sha256sum "$0" | cut -c1-16)
cache=${CVOL_TEST_CACHE:-/var/cache/cvol-tests}
work=""
clean_up() {
  [ -z "$work" ] && return
  umount -l "$work/proc" "$work/sys" 2>/dev/null || true
  rm -rf --one-file-system "$work"
}
trap clean_up EXIT

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

busybox() {
  local name=cvol-test-busybox
  has_image "$name" && return
  work=$(mktemp -d)
  mkdir -p "$work"/{bin,tmp,vol,etc,content/inner}
  cp /bin/busybox "$work/bin/busybox"
  "$work/bin/busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$work/bin/$applet"
  done
  echo "root:x:0:0:root:/:/bin/sh" >"$work/etc/passwd"
  echo "from the image" >"$work/content/inner/file"
  chown 1234:1234 "$work/content" "$work/content/inner/file"
  chmod 750 "$work/content"
  tar -C "$work" -c . | docker import - "$name" >/dev/null
}

# Where this host takes Debian 12 from: the first source of suite bookworm that has main.
debian_mirror() {
  apt-get indextargets --format '$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)' |
    awk '$1 == "Packages" && $2 == "bookworm" && $3 == "main" { print $4; exit }'
}

postgres_entrypoint() {
  cat <<'ENTRYPOINT'
#!/bin/sh
# As user postgres: a new cluster if PGDATA is empty, then the server.
set -e
if [ -z "$(ls -A "$PGDATA")" ]; then
  initdb --auth=trust --username=postgres --encoding=UTF8 --locale=C
fi
exec postgres -c listen_addresses= -c unix_socket_directories=/run/postgresql "$@"
ENTRYPOINT
}

# Fills the directory $1.
postgres_tree() {
  local tree=$1 mirror
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || { echo "images.sh: apt knows no source of Debian bookworm" >&2; return 1; }
  debootstrap --variant=minbase bookworm "$tree" "$mirror"
  printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"  # start no services
  chmod +x "$tree/usr/sbin/policy-rc.d"
  mkdir -p "$tree/etc/postgresql-common"
  echo "create_main_cluster = false" >"$tree/etc/postgresql-common/createcluster.conf"
  printf 'path-exclude=/usr/share/%s/*\n' doc man locale info \
    >"$tree/etc/dpkg/dpkg.cfg.d/small"
  DEBIAN_FRONTEND=noninteractive chroot "$tree" \
    apt-get install -y --no-install-recommends postgresql-15
  # Not needed, and large: just-in-time compilation, package lists, texts.
  rm -rf "$tree"/usr/lib/*/libLLVM* "$tree"/usr/lib/llvm* \
    "$tree"/usr/lib/postgresql/15/lib/{bitcode,llvmjit*} "$tree"/var/cache/apt/* \
    "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,man,locale,info}/*
  mkdir -p "$tree/var/lib/postgresql/data"
  chroot "$tree" chown postgres:postgres /var/lib/postgresql/data
  chmod 700 "$tree/var/lib/postgresql/data"
  postgres_entrypoint >"$tree/entrypoint"
  chmod 755 "$tree/entrypoint"
}

postgres() {
  local name=cvol-test-postgres tar=$cache/postgres-$recipe.tar log
  has_image "$name" && return
  if [ ! -s "$tar" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/work.XXXXXX")
    log=$work.log
    if ! "$0" tree "$work" >"$log" 2>&1; then
      tail -n 20 "$log" >&2
      echo "images.sh: cannot make the image of PostgreSQL; the full log is $log" >&2
      return 1
    fi
    rm -f "$log" "$cache"/postgres-*.tar
    tar -C "$work" --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* -cf "$tar.new" .
    mv "$tar.new" "$tar"
  fi
  docker import --change 'USER postgres' --change 'ENTRYPOINT ["/entrypoint"]' \
    --change 'ENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV PGDATA=/var/lib/postgresql/data' "$tar" "$name" >/dev/null
}

case "${1:-}" in
  busybox | postgres) "$1" ;;
  tree) postgres_tree "$2" ;;
  *) sed -n '2,4p' "$0" | cut -c3- >&2; exit 2 ;;
esac
