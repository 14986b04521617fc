// cvol-engine-bench: what a disk needs to open after a crash, and how much memory its chunks take.
//
//   cvol-engine-bench open DIRECTORY [JOURNAL_GIB=4] [VOLUME_GIB=8]
//   cvol-engine-bench memory DIRECTORY [GIB=64]
//   cvol-engine-bench make DIRECTORY [GIB=64]
//   cvol-engine-bench reopen DIRECTORY [TIMES=3]
//   cvol-engine-bench give-back DIRECTORY [GIB=64] [0|1]
//
// DIRECTORY is made, and removed at the end; `make` leaves a disk there that is full of chunks, and
// `reopen` opens it again and again, cold. `give-back` frees so much and writes 4 KiB blocks for 10
// s meanwhile, with or without the giving back. So two builds can be compared on one disk. A sparse
// XFS image holds it: chunks without data need nothing but extents there. JSON objects are printed.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "volumed/base/log.h"
#include "volumed/io/scope.h"
#include "volumed/io/uring_reactor.h"
#include "volumed/store/disk_engine.h"

namespace cvol {
namespace {

using Clock = std::chrono::steady_clock;

template <typename T>
T need(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "cvol-engine-bench: %s\n", result.message().c_str());
    std::exit(1);
  }
  return std::move(*result);
}
void need(const Status& status) {
  if (status) return;
  std::fprintf(stderr, "cvol-engine-bench: %s\n", status.message().c_str());
  std::exit(1);
}

std::unique_ptr<io::UringReactor> make_reactor() {
  return need(io::UringReactor::make(io::UringOptions{}));
}

uint64_t resident_bytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with("VmRSS:")) return std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return 0;
}

struct Fill {
  store::DiskEngine* engine = nullptr;
  store::ReplicaNumber replica = 0;
  uint64_t blocks = 0;
  uint64_t seq = 0;
  uint64_t written = 0;
};

Task<void> write_until_full(io::Reactor& reactor, Fill& fill) {
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBlockBytes));
  std::memset(data, 0x5a, kBlockBytes);
  store::DiskInfo info = fill.engine->info();
  while (info.journal_used_bytes * 1000 < info.journal_bytes * 995) {
    const uint64_t block = reactor.random().below(fill.blocks);
    need(co_await fill.engine->append_write(fill.replica, 1, ++fill.seq, block * kBlockBytes,
                                            {data, kBlockBytes}));
    ++fill.written;
    info = fill.engine->info();
  }
}

// Fills the journal with 4 KiB writes, many under way, and dies.
Task<void> fill_journal(io::Reactor& reactor, std::string path, uint64_t journal, uint64_t volume) {
  store::FormatOptions format;
  format.journal_bytes = journal;
  format.capacity_bytes = volume + kGiB;
  need(co_await store::format_disk(reactor, path, format));
  store::EngineOptions options;
  options.destage_percent = 101;
  options.destage_when_idle = false;
  std::unique_ptr<store::DiskEngine> engine =
      need(co_await store::open_disk(reactor, path, options));
  const store::ReplicaInfo replica = need(co_await engine->create_replica(
      Uuid::make(reactor.random()), Uuid::make(reactor.random()), volume));
  Fill fill{engine.get(), replica.number, volume / kBlockBytes};
  io::Scope scope;
  for (int i = 0; i < 128; ++i) scope.spawn(write_until_full(reactor, fill));
  while (fill.engine->info().journal_used_bytes * 1000 < journal * 990) {
    co_await reactor.sleep(20 * io::kMillisecond);
  }
  _exit(0);  // as a killed process would: nothing is closed
}

Task<void> open_again(io::Reactor& reactor, std::string path) {
  const Clock::time_point begin = Clock::now();
  const store::EngineOptions options;  // named: g++ 12 frees a temporary twice
  std::unique_ptr<store::DiskEngine> engine =
      need(co_await store::open_disk(reactor, path, options));
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const store::DiskInfo info = engine->info();
  std::printf(
      "{\"open_seconds\": %.2f, \"journal_bytes\": %lu, \"journal_used_bytes\": %lu, "
      "\"resident_mib\": %lu}\n",
      seconds, info.journal_bytes, info.journal_used_bytes, resident_bytes() / kMiB);
  std::fflush(stdout);
  _exit(0);  // the rest would be destaged otherwise
}

void drop_page_cache(const std::string& path) {
  const int handle = ::open(path.c_str(), O_RDONLY);
  if (handle < 0) return;
  posix_fadvise(handle, 0, 0, POSIX_FADV_DONTNEED);
  ::close(handle);
}

// Chunks that are allocated but hold no data: the table and the memory do not know the difference.
Task<void> allocate(io::Reactor& reactor, std::string path, uint64_t bytes) {
  store::FormatOptions format;
  format.journal_bytes = 256 * kMiB;
  format.capacity_bytes = bytes + kGiB;
  need(co_await store::format_disk(reactor, path, format));
  const store::EngineOptions options;  // named: g++ 12 frees a temporary twice
  std::unique_ptr<store::DiskEngine> engine =
      need(co_await store::open_disk(reactor, path, options));
  const store::ReplicaInfo replica = need(co_await engine->create_replica(
      Uuid::make(reactor.random()), Uuid::make(reactor.random()), bytes));
  const uint64_t before = resident_bytes();
  uint64_t seq = 0;
  for (uint64_t at = 0; at < bytes; at += kGiB)
    need(co_await engine->append_zero(replica.number, 1, ++seq, at, kGiB, true));
  need(co_await engine->destage_all());
  const uint64_t allocated = engine->info().allocated_bytes;
  std::printf(
      "{\"after\": \"allocation\", \"allocated_gib\": %lu, \"resident_mib\": %lu, "
      "\"gib_per_tib\": %.2f}\n",
      allocated / kGiB, resident_bytes() / kMiB,
      static_cast<double>(resident_bytes() - before) / kGiB * kTiB /
          static_cast<double>(allocated));
  std::fflush(stdout);
  co_await engine->close();
}

Task<void> open_allocated(io::Reactor& reactor, std::string path) {
  const uint64_t before = resident_bytes();
  const Clock::time_point begin = Clock::now();
  const store::EngineOptions options;  // named: g++ 12 frees a temporary twice
  std::unique_ptr<store::DiskEngine> engine =
      need(co_await store::open_disk(reactor, path, options));
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const uint64_t allocated = engine->info().allocated_bytes;
  std::printf(
      "{\"after\": \"opening\", \"allocated_gib\": %lu, \"resident_mib\": %lu, "
      "\"gib_per_tib\": %.2f, \"open_seconds\": %.2f}\n",
      allocated / kGiB, resident_bytes() / kMiB,
      static_cast<double>(resident_bytes() - before) / kGiB * kTiB / static_cast<double>(allocated),
      seconds);
  std::fflush(stdout);
  co_await engine->close();
}

// Of everything that lies there, but not of file "chunks".
void drop_table_cache(const std::string& path) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.is_regular_file() && entry.path().filename() != "chunks")
      drop_page_cache(entry.path());
  }
}

// Runs `step` on a reactor in a process of its own; true if it ended well.
template <typename Step>
bool in_process(Step step) {
  const pid_t child = fork();
  if (child == 0) {
    {
      auto reactor = make_reactor();
      reactor->run_until_done(step(*reactor));
    }
    _exit(0);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int open_after_crash(const std::string& path, uint64_t journal, uint64_t volume) {
  const bool filled = in_process(
      [&](io::Reactor& reactor) { return fill_journal(reactor, path, journal, volume); });
  drop_page_cache(path + "/journal");
  return filled && in_process([&](io::Reactor& reactor) { return open_again(reactor, path); }) ? 0
                                                                                               : 1;
}

int memory_of_chunks(const std::string& path, uint64_t bytes) {
  const bool made =
      in_process([&](io::Reactor& reactor) { return allocate(reactor, path, bytes); });
  return made && in_process([&](io::Reactor& reactor) { return open_allocated(reactor, path); })
             ? 0
             : 1;
}

int make_chunks(const std::string& path, uint64_t bytes) {
  return in_process([&](io::Reactor& reactor) { return allocate(reactor, path, bytes); }) ? 0 : 1;
}

// One writer beside a disk that gives a large volume's space back.
Task<void> write_beside(io::Reactor& reactor, std::string path, uint64_t bytes, bool give_back) {
  store::FormatOptions format;
  format.journal_bytes = 256 * kMiB;
  format.capacity_bytes = bytes + 2 * kGiB;
  need(co_await store::format_disk(reactor, path, format));
  store::EngineOptions options;
  options.give_back = give_back;
  options.give_back_after = 10 * io::kMillisecond;
  std::unique_ptr<store::DiskEngine> engine =
      need(co_await store::open_disk(reactor, path, options));
  const store::ReplicaInfo large = need(co_await engine->create_replica(
      Uuid::make(reactor.random()), Uuid::make(reactor.random()), bytes));
  const store::ReplicaInfo small = need(co_await engine->create_replica(
      Uuid::make(reactor.random()), Uuid::make(reactor.random()), kGiB));
  uint64_t seq = 0;
  for (uint64_t at = 0; at < bytes; at += kGiB)
    need(co_await engine->append_zero(large.number, 1, ++seq, at, kGiB, true));
  need(co_await engine->destage_all());
  need(co_await engine->remove_replica(large.number));
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBlockBytes));
  std::memset(data, 0x5a, kBlockBytes);
  std::vector<double> milliseconds;
  const Clock::time_point end = Clock::now() + std::chrono::seconds(10);
  for (Clock::time_point now = Clock::now(); now < end;) {
    const uint64_t block = reactor.random().below(kGiB / kBlockBytes);
    need(co_await engine->append_write(small.number, 1, ++seq, block * kBlockBytes,
                                       {data, kBlockBytes}));
    const Clock::time_point then = Clock::now();
    milliseconds.push_back(std::chrono::duration<double, std::milli>(then - now).count());
    now = then;
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  const std::size_t writes = milliseconds.size();
  std::printf(
      "{\"writes\": %zu, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"worst_ms\": %.1f, "
      "\"given_back_gib\": %.1f}\n",
      writes, milliseconds[writes / 2], milliseconds[writes * 99 / 100], milliseconds.back(),
      static_cast<double>(engine->metrics().given_back_bytes.get()) / kGiB);
  std::fflush(stdout);
  co_await engine->close();
}

int reopen(const std::string& path, uint64_t times) {
  for (uint64_t i = 0; i < times; ++i) {
    drop_table_cache(path);
    if (!in_process([&](io::Reactor& reactor) { return open_allocated(reactor, path); })) return 1;
  }
  return 0;
}

int run(int argc, char** argv) {
  const std::string what = argc > 2 ? argv[1] : "";
  if (what != "open" && what != "memory" && what != "make" && what != "reopen" &&
      what != "give-back") {
    std::fprintf(stderr,
                 "usage: cvol-engine-bench open DIRECTORY [JOURNAL_GIB] [VOLUME_GIB]\n"
                 "       cvol-engine-bench memory DIRECTORY [GIB]\n"
                 "       cvol-engine-bench make DIRECTORY [GIB]\n"
                 "       cvol-engine-bench reopen DIRECTORY [TIMES]\n"
                 "       cvol-engine-bench give-back DIRECTORY [GIB] [0|1]\n");
    return 2;
  }
  const std::string path = argv[2];
  const auto number = [&](int index, uint64_t fallback) {
    return argc > index ? std::strtoull(argv[index], nullptr, 10) : fallback;
  };
  log::set_level("warning");
  if (what == "make") return make_chunks(path, number(3, 64) * kGiB);
  if (what == "reopen") return reopen(path, number(3, 3));
  int result = 0;
  if (what == "give-back") {
    const bool give_back = number(4, 1) != 0;
    result = in_process([&](io::Reactor& reactor) {
      return write_beside(reactor, path, number(3, 64) * kGiB, give_back);
    })
                 ? 0
                 : 1;
  } else if (what == "open") {
    result = open_after_crash(path, number(3, 4) * kGiB, number(4, 8) * kGiB);
  } else {
    result = memory_of_chunks(path, number(3, 64) * kGiB);
  }
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
  return result;
}

}  // namespace
}  // namespace cvol

int main(int argc, char** argv) {
  return cvol::run(argc, argv);
}
