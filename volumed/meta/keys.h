// Keys of the metadata store: /cvol/v1/CLUSTER/...
#pragma once

#include <string>
#include <string_view>

namespace cvol::meta {

class Keys {
 public:
  explicit Keys(std::string_view cluster) : root_("/cvol/v1/" + std::string(cluster) + "/") {}

  const std::string& root() const { return root_; }
  std::string cluster() const { return root_ + "cluster"; }
  std::string nodes() const { return root_ + "nodes/"; }
  std::string node(std::string_view id) const { return nodes() + std::string(id); }
  // The only leased ones.
  std::string alive() const { return root_ + "alive/"; }
  std::string alive(std::string_view id) const { return alive() + std::string(id); }
  // Of migrations between stores (migrate.h).
  std::string migrated_to() const { return root_ + "migrated_to"; }
  std::string migrating() const { return root_ + "migrating"; }
  std::string disks() const { return root_ + "disks/"; }
  std::string disk(std::string_view id) const { return disks() + std::string(id); }
  std::string disk_failures() const { return root_ + "disk_failures/"; }
  std::string disk_failure(std::string_view id) const { return disk_failures() + std::string(id); }
  std::string removed() const { return root_ + "removed/"; }
  std::string removed(std::string_view replica) const { return removed() + std::string(replica); }
  // Of volumes that were removed: what tells a removal from a record that was lost.
  std::string removed_volumes() const { return root_ + "removed_volumes/"; }
  std::string removed_volume(std::string_view id) const {
    return removed_volumes() + std::string(id);
  }
  // A node that was taken out for good: it does not come back as if nothing had been.
  std::string removed_node(std::string_view id) const {
    return root_ + "removed_nodes/" + std::string(id);
  }
  std::string volumes() const { return root_ + "volumes/"; }
  std::string volume(std::string_view id) const { return volumes() + std::string(id); }
  std::string claims() const { return root_ + "claims/"; }
  std::string claims(std::string_view volume) const { return claims() + std::string(volume) + "/"; }
  std::string claim(std::string_view volume, std::string_view replica) const {
    return claims(volume) + std::string(replica);
  }
  std::string name(std::string_view name) const { return root_ + "names/" + std::string(name); }

 private:
  std::string root_;
};

}  // namespace cvol::meta
