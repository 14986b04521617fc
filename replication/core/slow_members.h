// SlowMembers: R16. A member whose acknowledgements are far slower than everybody else's, for long,
// slows every write: it is better out of the set. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "replication/core/types.h"

namespace cvol::replication {

class SlowMembers {
 public:
  static constexpr Nanoseconds kWindow = 5 * kSecond;
  static constexpr std::size_t kWindows = 6;  // 30 s
  static constexpr uint64_t kLeastAcks = 20;  // of one window; fewer say nothing
  static constexpr Nanoseconds kSlow = 200 * kMillisecond;
  static constexpr int kTimesSlower = 10;

  // An acknowledgement of member `slot` (0: the primary's own disk) that took so long.
  void record(Nanoseconds now, uint32_t slot, Nanoseconds took);
  // The member of `mask` (bits by slot) that was slow in every window of the last 30 s: its p99
  // above 200 ms and above ten times that of every other one. 0: none.
  uint32_t slow(Nanoseconds now, uint32_t mask);
  void forget(uint32_t slot);

 private:
  static constexpr std::size_t kBins = 40;  // powers of two of nanoseconds
  struct Window {
    uint64_t acks = 0;
    std::array<uint32_t, kBins> bins{};
    Nanoseconds p99() const;
  };
  struct Member {
    std::array<Window, kWindows> windows;
  };
  void advance(Nanoseconds now);

  std::vector<Member> members_;
  int64_t turn_ = 0;  // number of the window that is being filled
};

}  // namespace cvol::replication
