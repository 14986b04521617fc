// nbd-load: 4 KiB random writes with FUA over NBD, many under way, for bench/single: fio's nbd
// engine cannot set the flag. On libnbd, so that it treats every server alike.
//
//   nbd-load URI SECONDS DEPTH BYTES    -> one JSON object: iops, operations, p50_us, p99_us
//
// Writes are counted when the server has answered; BYTES bounds the offsets. One thread.
#include <libnbd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kBlock = 4096;

[[noreturn]] void die(const char* doing) {
  const char* why = nbd_get_error();
  std::fprintf(stderr, "nbd-load: %s: %s\n", doing, why != nullptr ? why : "no reason given");
  std::exit(1);
}

struct Slot {
  Clock::time_point started;
  bool free = true;
  std::vector<double>* latencies = nullptr;
  uint64_t* under_way = nullptr;
};

// Runs in nbd_aio_*: the reply to the slot's write is here.
int completed(void* user, int* error) {
  if (*error != 0) {
    std::fprintf(stderr, "nbd-load: the server answered: %s\n", std::strerror(*error));
    std::exit(1);
  }
  auto* slot = static_cast<Slot*>(user);
  slot->latencies->push_back(
      std::chrono::duration<double, std::micro>(Clock::now() - slot->started).count());
  slot->free = true;
  --*slot->under_way;
  return 1;  // retire it
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: nbd-load URI SECONDS DEPTH BYTES\n");
    return 2;
  }
  const double seconds = std::atof(argv[2]);
  const long depth = std::atol(argv[3]);
  const uint64_t blocks = std::strtoull(argv[4], nullptr, 10) / kBlock;
  if (seconds <= 0 || depth < 1 || depth > 1024 || blocks == 0) {
    std::fprintf(stderr, "nbd-load: SECONDS > 0, DEPTH 1..1024, BYTES >= 4096\n");
    return 2;
  }
  nbd_handle* nbd = nbd_create();
  if (nbd == nullptr || nbd_connect_uri(nbd, argv[1]) != 0) die("connect");
  if (nbd_can_fua(nbd) != 1) {
    std::fprintf(stderr, "nbd-load: the server does not offer FUA\n");
    return 1;
  }

  std::vector<unsigned char> data(kBlock * static_cast<std::size_t>(depth));
  std::mt19937_64 random(std::random_device{}());
  for (unsigned char& byte : data) byte = static_cast<unsigned char>(random());
  std::vector<double> latencies;
  latencies.reserve(4'000'000);
  uint64_t under_way = 0;
  std::vector<Slot> slots(static_cast<std::size_t>(depth));
  for (Slot& slot : slots) {
    slot.latencies = &latencies;
    slot.under_way = &under_way;
  }

  const Clock::time_point begin = Clock::now();
  const Clock::time_point end =
      begin + std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6));
  Clock::time_point now = begin;
  while (now < end || under_way > 0) {
    for (std::size_t i = 0; i < slots.size() && now < end; ++i) {
      Slot& slot = slots[i];
      if (!slot.free) continue;
      slot.free = false;
      slot.started = Clock::now();
      ++under_way;
      unsigned char* block = data.data() + i * kBlock;
      std::memcpy(block, &slot.started, sizeof slot.started);  // never the same twice
      nbd_completion_callback callback{};
      callback.callback = completed;
      callback.user_data = &slot;
      if (nbd_aio_pwrite(nbd, block, kBlock, random() % blocks * kBlock, callback,
                         LIBNBD_CMD_FLAG_FUA) < 0) {
        die("write");
      }
    }
    if (nbd_poll(nbd, 1000) < 0) die("wait for replies");
    now = Clock::now();
  }
  const double passed = std::chrono::duration<double>(now - begin).count();
  nbd_shutdown(nbd, 0);
  nbd_close(nbd);
  if (latencies.empty()) {
    std::fprintf(stderr, "nbd-load: not one write was answered\n");
    return 1;
  }
  std::sort(latencies.begin(), latencies.end());
  std::printf("{\"iops\": %.1f, \"operations\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
              static_cast<double>(latencies.size()) / passed, latencies.size(),
              latencies[latencies.size() / 2], latencies[latencies.size() * 99 / 100]);
  return 0;
}
