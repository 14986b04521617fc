#include "volumed/volume/mount_users.h"

#include <algorithm>
#include <vector>

namespace cvol::volume {
namespace {

template <typename Ids>
bool holds(const Ids& ids, const std::string& id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

template <typename Ids>
void take_out(Ids& ids, const std::string& id) {
  ids.erase(std::remove(ids.begin(), ids.end(), id), ids.end());
}

}  // namespace

bool has_caller(const v1::MountRecord& mount, const std::string& id) {
  return holds(mount.caller_ids(), id);
}

bool is_leaving(const v1::MountRecord& mount, const std::string& id) {
  return holds(mount.leaving(), id);
}

uint32_t uses_of(const v1::MountRecord& mount, const std::string& id) {
  if (!has_caller(mount, id)) return 0;
  const auto counted = mount.uses().find(id);
  return counted == mount.uses().end() ? 1 : std::max(counted->second.count(), 1u);
}

bool is_unfinished(const v1::MountRecord& mount) {
  return mount.leaving_size() > 0 || mount.detaching();
}

bool is_mount_of(const v1::VolumeRecord& record, const std::string& node_id) {
  if (!record.mount().node_id().empty()) return record.mount().node_id() == node_id;
  return record.session().id().empty() || record.session().node_id() == node_id;
}

void add_use(v1::MountRecord& mount, const std::string& id, const std::string& use,
             bool earlier_lives) {
  const std::vector<std::string> left(mount.leaving().begin(), mount.leaving().end());
  for (const std::string& gone : left) erase_caller(mount, gone);
  mount.set_detaching(false);
  const bool known = has_caller(mount, id);
  if (!known) mount.add_caller_ids(id);
  if (use.empty()) return;
  v1::MountUses& uses = (*mount.mutable_uses())[id];
  if (known && uses.last_mount() == use) return;
  uses.set_count(known && earlier_lives ? std::max(uses.count(), 1u) + 1 : 1);
  uses.set_last_mount(use);
}

bool is_done(const v1::MountRecord& mount, const std::string& id, const Leave& how) {
  const auto counted = mount.uses().find(id);
  const bool counts = counted != mount.uses().end();
  if (!how.undo.empty())
    return !has_caller(mount, id) || !counts || counted->second.last_mount() != how.undo;
  return !how.use.empty() && counts && counted->second.last_unmount() == how.use;
}

bool take_one(v1::MountRecord& mount, const std::string& id, const Leave& how) {
  const bool one = !how.use.empty() || !how.undo.empty();
  const uint32_t count = uses_of(mount, id);
  if (!one || how.stale || count < 2) return false;
  v1::MountUses& uses = (*mount.mutable_uses())[id];
  uses.set_count(count - 1);
  if (!how.undo.empty()) uses.clear_last_mount();
  if (!how.use.empty()) uses.set_last_unmount(how.use);
  return true;
}

void erase_caller(v1::MountRecord& mount, const std::string& id) {
  take_out(*mount.mutable_caller_ids(), id);
  take_out(*mount.mutable_leaving(), id);
  mount.mutable_targets()->erase(id);
  mount.mutable_uses()->erase(id);
  if (mount.caller_ids_size() > 0) return;
  const bool detaching = mount.detaching();
  const std::string node = mount.node_id();
  mount.Clear();
  if (!detaching) return;
  mount.set_detaching(true);
  mount.set_node_id(node);
}

}  // namespace cvol::volume
