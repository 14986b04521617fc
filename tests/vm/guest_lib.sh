# Helpers of the guest scripts.
failures=0

say() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }

# check TEXT COMMAND...: one line PASS or FAIL.
check() {
  text=$1
  shift
  if "$@" > /tmp/check.out 2>&1; then
    say "PASS $text"
  else
    say "FAIL $text ($*)"
    tail -20 /tmp/check.out
    failures=$((failures + 1))
  fi
}

# wait_for SECONDS COMMAND...
wait_for() {
  until=$(($(date +%s) + $1))
  shift
  while ! "$@" > /dev/null 2>&1; do
    [ "$(date +%s)" -lt $until ] || return 1
    sleep 0.1
  done
}

# The kernel reports lost I/O of a block device in these words.
io_errors() {
  dmesg | grep -E 'I/O error|Buffer I/O|blk_update_request|Remounting filesystem read-only|metadata I/O|Shutting down filesystem|EXT4-fs error'
}
no_io_errors() { ! io_errors; }
is_mounted() { grep -q " $1 .* rw" /proc/self/mountinfo; }
