#include "csi/condition.h"

#include <fmt/format.h>

namespace cvol::csi {
namespace {

struct Count {
  uint32_t in_sync = 0;
  uint32_t syncing = 0;
  std::string away;  // nodes
};

Count count_copies(const v1::Volume& volume) {
  Count count;
  for (const v1::Replica& copy : volume.copies()) {
    if (copy.in_sync()) ++count.in_sync;
    if (copy.state() == "syncing" || copy.state() == "new") ++count.syncing;
    if (copy.state() == "away") count.away += (count.away.empty() ? "" : ", ") + copy.node();
  }
  return count;
}

std::string percent(const v1::Volume& volume) {
  for (const v1::Resync& resync : volume.resyncs()) {
    if (resync.total_bytes() == 0) continue;
    return fmt::format(", {} % done",
                       std::min<uint64_t>(resync.done_bytes() * 100 / resync.total_bytes(), 100));
  }
  return "";
}

}  // namespace

wire::VolumeCondition condition_of(const v1::Volume& volume) {
  wire::VolumeCondition condition;
  if (!volume.problem().empty()) {
    condition.set_abnormal(true);
    condition.set_message("damaged: " + volume.problem());
    return condition;
  }
  if (!volume.waits().empty()) {
    condition.set_abnormal(true);
    condition.set_message(volume.waits());
    return condition;
  }
  const Count count = count_copies(volume);
  if (count.in_sync >= volume.replicas()) {
    condition.set_message(volume.replicas() == 1
                              ? "the only replica works"
                              : fmt::format("all {} replicas are in sync", volume.replicas()));
    return condition;
  }
  condition.set_abnormal(true);
  std::string text = fmt::format("degraded: {} of {} replicas {} in sync", count.in_sync,
                                 volume.replicas(), count.in_sync == 1 ? "is" : "are");
  if (count.in_sync <= 1) text += "; this is the last copy: one more failure loses data";
  if (!count.away.empty()) text += "; away: " + count.away;
  if (count.syncing > 0 || !volume.resyncs().empty()) text += "; rebuilding" + percent(volume);
  if (count.in_sync < volume.min_in_sync())
    text += fmt::format("; writes wait until {} are in sync", volume.min_in_sync());
  condition.set_message(text);
  return condition;
}

}  // namespace cvol::csi
