// Volumes in a middle state: "creating" and "removing". Whoever finds one goes on with it, or waits
// until it is ready or gone; nobody calls it done. Going on and giving up both change the state by
// compare-and-swap, from "creating", so that only one of them happens.
#include <algorithm>
#include <chrono>

#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
constexpr auto kMakeTime = 20s;  // for replicas to be made on all nodes
constexpr auto kServeTime = 5s;  // for the primary to serve what has become ready

const v1::MemberRecord* unmade_member(const v1::VolumeRecord& record) {
  for (const v1::MemberRecord& member : record.members()) {
    if (!member.made()) return &member;
  }
  return nullptr;
}

}  // namespace

void VolumeManager::forget_if(const Hosted& hosted) {
  std::lock_guard lock(mutex_);
  const auto known = volumes_.find(hosted.name);
  if (known != volumes_.end() && known->second.get() == &hosted) volumes_.erase(known);
}

Result<VolumeManager::HostedPtr> VolumeManager::require_ready(const std::string& name) {
  auto hosted = require(name);
  if (!hosted || record_of(**hosted).state() == "ready") return hosted;
  {  // a call of this node that makes or removes it ends first
    std::lock_guard operation((*hosted)->operation);
  }
  hosted = require(name);
  if (!hosted) return hosted;
  // Another node that has just made it may have been told so already.
  if (cluster_ && record_of(**hosted).state() == "creating") (void)refresh(**hosted).is_ok();
  const std::string state = record_of(**hosted).state();
  if (state == "ready") return hosted;
  if (state == "removing")
    return Status(Code::kNotFound, "volume '" + name + "' is being removed; 'cvol volume rm " +
                                       name + "' goes on with it");
  return Status(Code::kUnavailable, "volume '" + name +
                                        "' is still being made; ask again, or create it again "
                                        "(which goes on with it)");
}

Status VolumeManager::finish_unfinished(Hosted& hosted) {
  const std::string state = record_of(hosted).state();
  if (state == "ready") return Status::ok();
  if (cluster_) return finish_creation(hosted);
  if (state != "removing")
    return Status(Code::kUnavailable,
                  "it is not wholly made; restart volumed, which takes it back");
  return finish_removal(hosted).with_context("its removal is not finished");
}

Status VolumeManager::finish_removal(Hosted& hosted) {
  if (hosted.disk == nullptr || hosted.disk->engine == nullptr)
    return Status(Code::kFailedPrecondition,
                  "its disk does not work; 'cvol volume rm --force' removes the record");
  CVOL_TRY(remove_replica(hosted));
  CVOL_TRY(catalog_.erase_volume(hosted.entry));
  forget_if(hosted);
  return Status::ok();
}

Status VolumeManager::finish_creation(Hosted& hosted) {
  std::string missing;
  const auto is_over = [&](const std::optional<VolumeEntry>& now) {
    missing.clear();
    // What is not known here yet may be in the store all the same.
    if (!now) return catalog_.load_volume(hosted.id).code() == Code::kNotFound;
    if (now->record.state() != "creating") return true;
    const v1::MemberRecord* unmade = unmade_member(now->record);
    if (unmade != nullptr) missing = cluster_->node_name(unmade->node_id());
    return unmade == nullptr;
  };
  if (!cluster_->wait_for(hosted.id, kMakeTime, is_over))
    return Status(Code::kUnavailable, (missing.empty() ? "a node" : "node " + missing) +
                                          " did not make its replica in time; 'cvol node ls' shows "
                                          "whether it lives");
  auto changed = cluster_->update(hosted.id, [](v1::VolumeRecord& next) {
    if (next.state() == "removing") return Status(Code::kNotFound, "it was given up");
    if (unmade_member(next) != nullptr)
      return Status(Code::kUnavailable, "a replica is not made yet; try again");
    next.set_state("ready");
    return Status::ok();
  });
  if (changed.code() == Code::kNotFound) {
    forget_if(hosted);
    return Status::ok();
  }
  if (!changed) return changed.status();
  {
    std::lock_guard lock(mutex_);
    if (changed->revision > hosted.entry.revision) hosted.entry = *changed;
  }
  // It is ready and stays so; only the first to open it would have to wait.
  if (Status served = confirm_epoch(hosted, kServeTime); !served)
    log::warning("volume", "a new volume is not served yet",
                 {{"volume", hosted.name}, {"error", served.message()}});
  return Status::ok();
}

Status VolumeManager::give_up_creation(Hosted& hosted) {
  while (true) {
    auto last = catalog_.load_volume(hosted.id);
    if (last.code() == Code::kNotFound) return Status::ok();
    if (!last) return last.status();
    if (last->record.state() != "creating") return Status::ok();
    const Status begun = catalog_.begin_removal(*last);
    if (begun) cluster_->learned(*last);
    if (begun.code() != Code::kBusy) return begun;
  }
}

}  // namespace cvol::volume
