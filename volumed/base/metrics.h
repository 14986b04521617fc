// Counters of disks and volumes. Written by one shard, read by any thread (relaxed atomics).
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

#include "volumed/base/waiting_requests.h"

namespace cvol {

// A counter with one writer.
class Counter {
 public:
  void add(uint64_t amount) {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  void set(uint64_t amount) { value_.store(amount, std::memory_order_relaxed); }
  uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Latencies in power-of-two buckets: bucket i counts those below 2^i microseconds, i in 0..24.
class LatencyHistogram {
 public:
  static constexpr std::size_t kBuckets = 26;  // the last one has no bound
  void record(int64_t nanoseconds) {
    const uint64_t us = nanoseconds < 0 ? 0 : static_cast<uint64_t>(nanoseconds) / 1000;
    const std::size_t index = static_cast<std::size_t>(std::bit_width(us));
    buckets_[index < kBuckets ? index : kBuckets - 1].add(1);
    sum_us_.add(us);
  }
  uint64_t bucket(std::size_t index) const { return buckets_[index].get(); }
  uint64_t sum_microseconds() const { return sum_us_.get(); }

 private:
  std::array<Counter, kBuckets> buckets_;
  Counter sum_us_;
};

// One volume's traffic, at the block device.
struct VolumeMetrics {
  Counter read_operations, read_bytes;
  Counter write_operations, write_bytes;
  Counter flush_operations, trim_operations;
  Counter errors;
  LatencyHistogram read_latency, write_latency;
  WaitingRequests requests;   // under way
  WaitingRequests for_space;  // that are tried again until there is space in the pool
};

namespace store {

struct EngineMetrics {
  Counter journal_batches, journal_records, journal_bytes;
  Counter journal_size_bytes, journal_used_bytes;
  Counter destage_rounds, destage_chunks, destage_bytes;
  Counter capacity_bytes, allocated_bytes;
  Counter damaged_blocks, no_space_errors, given_back_bytes;
  LatencyHistogram journal_latency;
};

}  // namespace store
}  // namespace cvol
