#include "replication/core/slow_members.h"

#include <algorithm>
#include <bit>

namespace cvol::replication {

Nanoseconds SlowMembers::Window::p99() const {
  uint64_t above = acks / 100;
  for (std::size_t bin = kBins; bin-- > 0;) {
    if (bins[bin] > above) return Nanoseconds{1} << bin;
    above -= bins[bin];
  }
  return 0;
}

void SlowMembers::advance(Nanoseconds now) {
  const int64_t turn = now / kWindow;
  for (int64_t passed = std::max(turn_ + 1, turn - static_cast<int64_t>(kWindows) + 1);
       passed <= turn; ++passed) {
    for (Member& member : members_)
      member.windows[static_cast<std::size_t>(passed) % kWindows] = {};
  }
  turn_ = turn;
}

void SlowMembers::record(Nanoseconds now, uint32_t slot, Nanoseconds took) {
  advance(now);
  if (members_.size() <= slot) members_.resize(slot + 1);
  Window& window = members_[slot].windows[static_cast<std::size_t>(turn_) % kWindows];
  const auto bin =
      static_cast<std::size_t>(std::bit_width(static_cast<uint64_t>(took < 0 ? 0 : took)));
  ++window.acks;
  ++window.bins[std::min(bin, kBins - 1)];
}

uint32_t SlowMembers::slow(Nanoseconds now, uint32_t mask) {
  advance(now);
  for (uint32_t slot = 1; slot < members_.size(); ++slot) {
    if ((mask >> slot & 1) == 0) continue;
    bool always = true;
    for (std::size_t i = 0; i < kWindows && always; ++i) {
      const Window& window = members_[slot].windows[i];
      const Nanoseconds p99 = window.p99();
      // The window that is being filled may be short; the others have to be full of it.
      const bool current = i == static_cast<std::size_t>(turn_) % kWindows;
      if (current) continue;
      if (window.acks < kLeastAcks || p99 <= kSlow) always = false;
      for (uint32_t other = 0; other < members_.size() && always; ++other) {
        if (other == slot || (other != 0 && (mask >> other & 1) == 0)) continue;
        if (p99 <= kTimesSlower * members_[other].windows[i].p99()) always = false;
      }
    }
    if (always) return slot;
  }
  return 0;
}

void SlowMembers::forget(uint32_t slot) {
  if (slot < members_.size()) members_[slot] = {};
}

}  // namespace cvol::replication
