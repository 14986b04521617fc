#include "tests/sim/node/workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

namespace cvol::sim {

using replication::Gateway;

namespace {

// Memory of an operation; at an odd address if asked for.
class Memory {
 public:
  Memory(uint64_t bytes, bool odd)
      : all_(static_cast<std::byte*>(
            std::aligned_alloc(kBlockBytes, (bytes / kBlockBytes + 2) * kBlockBytes))),
        bytes_(all_ + (odd ? 24 : 0), bytes) {}
  ~Memory() { std::free(all_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::byte* all_;
  std::span<std::byte> bytes_;
};

}  // namespace

void VolumeWorkload::complain(const std::string& what) {
  if (complaint_.empty()) complaint_ = what;
}

// True: it was done. Otherwise what became of it is not known, or it was refused.
bool VolumeWorkload::judge(const Status& status, const char* what) {
  last_ = status;
  if (status.is_ok()) return true;
  switch (status.code()) {
    case Code::kCancelled:
      return false;
    case Code::kPermission:
      return false;
    case Code::kNoSpace:
      ++no_space_;
      if (!shape_.no_space_allowed) complain(fmt::format("{}: {}", what, status.message()));
      return false;
    case Code::kDamaged:
      ++damaged_;
      if (!shape_.damage_allowed) complain(fmt::format("{}: {}", what, status.message()));
      return false;
    default:
      complain(fmt::format("{}: {} ({})", what, status.message(), code_name(status.code())));
      return false;
  }
}

Task<void> VolumeWorkload::write_lanes(Gateway* gateway, uint64_t lane, uint64_t count) {
  const bool odd = count % kLanes != 0 && world_.random().chance(1, 2);
  Memory memory(count * kLaneBytes, odd);
  const uint64_t value = lanes_.next_value();
  for (uint64_t i = 0; i < count; ++i)
    fill_lane(memory.bytes().data() + i * kLaneBytes, lane + i, value);
  lanes_.begin_write(lane, count, value, session_);
  const Status status = co_await gateway->write(lane * kLaneBytes, memory.bytes(), false);
  if (judge(status, "write")) {
    lanes_.end_write(lane, count, value);
    ++acknowledged_;
  }
}

Task<void> VolumeWorkload::zero_lanes(Gateway* gateway, uint64_t lane, uint64_t count) {
  const uint64_t value = lanes_.next_value();
  const uint64_t kind = world_.random().below(3);
  lanes_.begin_zero(lane, count, value, session_);
  const uint64_t offset = lane * kLaneBytes, length = count * kLaneBytes;
  Status status;
  if (kind == 0) {
    status = co_await gateway->trim(offset, length, false);
  } else {
    status = co_await gateway->write_zeroes(offset, length, kind == 1, false);
  }
  if (judge(status, "zero")) {
    lanes_.end_write(lane, count, value);
    ++acknowledged_;
  }
}

Task<void> VolumeWorkload::read_lanes(Gateway* gateway, uint64_t lane, uint64_t count) {
  const bool odd = count % kLanes != 0 && world_.random().chance(1, 2);
  Memory memory(count * kLaneBytes, odd);
  const History::Stamp begin = lanes_.begin_read();
  const Status status = co_await gateway->read(lane * kLaneBytes, memory.bytes());
  if (!judge(status, "read")) co_return;
  ++reads_;
  const std::string complaint = lanes_.end_read(lane, memory.bytes(), begin);
  if (!complaint.empty()) complain(complaint);
}

Task<void> VolumeWorkload::read_all(Gateway* gateway) {
  for (uint64_t block = 0; block < shape_.blocks; block += 8) {
    const uint64_t count = std::min<uint64_t>(8, shape_.blocks - block);
    co_await read_lanes(gateway, block * kLanes, count * kLanes);
  }
}

Task<void> VolumeWorkload::client(Gateway* gateway, io::SimReactor* reactor) {
  Random& random = world_.random();
  while (left_ > 0 && complaint_.empty()) {
    --left_;
    uint64_t count = (1 + random.below(random.chance(1, 4) ? shape_.most_blocks : 2)) * kLanes;
    count = std::min(count, shape_.blocks * kLanes);
    uint64_t lane = random.below(shape_.blocks - count / kLanes + 1) * kLanes;
    if (random.chance(shape_.unaligned, 100)) {
      count = 1 + random.below(count);
      lane = random.below(shape_.blocks * kLanes - count + 1);
    }
    const uint64_t kind = random.below(100);
    if (kind < shape_.write) {
      co_await write_lanes(gateway, lane, count);
    } else if (kind < shape_.write + shape_.zero) {
      co_await zero_lanes(gateway, lane, count);
    } else if (kind < shape_.write + shape_.zero + shape_.read) {
      co_await read_lanes(gateway, lane, count);
    } else if (kind % 2 == 0) {
      const Status status = co_await gateway->flush();
      judge(status, "flush");
    } else {
      const auto extents = co_await gateway->block_status(lane * kLaneBytes, count * kLaneBytes);
      if (judge(extents.status(), "status") && extents->empty()) complain("no allocation state");
    }
    if (last_.code() == Code::kCancelled || last_.code() == Code::kPermission) break;
    const int64_t slept = co_await reactor->sleep(world_.draw(0, shape_.think));
    if (slept < 0) break;
  }
  --running_;
}

void VolumeWorkload::start(Node& node, uint64_t clients, uint64_t operations) {
  left_ += operations;
  for (uint64_t i = 0; i < clients; ++i) {
    ++running_;
    node.reactor().start(client(node.gateway(), &node.reactor()));
  }
}

}  // namespace cvol::sim
