// Catalog: the records of volumes, disks and this node in the metadata store.
//
// Threading: any thread; calls block. Nothing is cached here.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "volumed/meta/keys.h"
#include "volumed/meta/metadata_store.h"
#include "volumed/meta/records.h"

namespace cvol::volume {

// A record as it was last read or written.
struct VolumeEntry {
  v1::VolumeRecord record;
  meta::Revision revision = 0;
};

class Catalog {
 public:
  Catalog(meta::MetadataStore& store, std::string cluster)
      : store_(store), cluster_(std::move(cluster)), keys_(cluster_) {}

  // Finds or makes the records of the cluster and of the node `id`, or, if that is empty, of the
  // node with this name; brings its boot id up to date.
  Result<v1::NodeRecord> register_node(const std::string& id, const std::string& name,
                                       const std::string& boot_id);
  const std::string& cluster() const { return cluster_; }
  const meta::Keys& keys() const { return keys_; }
  meta::MetadataStore& store() { return store_; }
  Status put_claim(v1::ClaimRecord claim);
  Result<std::vector<v1::ClaimRecord>> load_claims(const std::string& volume_id);
  Status erase_claims(const std::vector<v1::ClaimRecord>& claims);
  Result<v1::ClusterRecord> load_cluster();
  // kAlreadyExists: a node with another id has this name. Changes nothing.
  Status check_name_is_free(const std::string& id, const std::string& name) {
    return find_node(id, name).status();
  }
  Result<std::vector<v1::NodeRecord>> load_nodes();
  Status put_node(v1::NodeRecord record);
  // kFailedPrecondition if the node lives.
  Status erase_node(const v1::NodeRecord& node);

  // Records that cannot be read, or break a rule (record_rules.h), are left out and described in
  // `problems`; a newer format is an error.
  Result<std::vector<VolumeEntry>> load_volumes(std::vector<std::string>& problems);
  // kAlreadyExists if the name is taken.
  Status insert_volume(VolumeEntry& entry);
  // Writes `next` in place of entry's record. kBusy if somebody else changed it since.
  Status update_volume(VolumeEntry& entry, v1::VolumeRecord next);
  // With its name; a note of the removal stays.
  Status erase_volume(const VolumeEntry& entry);
  // As it is now; kNotFound.
  Result<VolumeEntry> load_volume(const std::string& id);
  // The record stays, to be taken apart; its name is free.
  Status begin_removal(VolumeEntry& entry);
  // A record without a member is erased, and a note of the removal stays; else it is written.
  Status write_or_erase(VolumeEntry& entry, v1::VolumeRecord next);

  // Of volumes that are gone (catalog_removed.cpp). Was it removed, or is its record lost?
  Result<bool> was_removed(const std::string& volume_id);
  // The same of a volume whose id nobody knows.
  Result<bool> was_name_removed(const std::string& name);
  // The name that the names say it has; empty: none.
  Result<std::string> name_of(const std::string& volume_id);
  // There is a record, whether or not it can be read.
  Result<bool> has_record(const std::string& volume_id);
  // Notes of removals that are older than 90 days.
  Status forget_old_removals();
  // Writes the record that is known, where there is none or one that cannot be read, with its name.
  // kFailedPrecondition: there is one that can be read. kAlreadyExists: the name is another's.
  Status put_back_volume(VolumeEntry& entry);

  // `unreadable`: id -> why, of records that are left out.
  Result<std::vector<v1::DiskRecord>> load_disks(std::map<std::string, std::string>& unreadable);
  Status put_disk(v1::DiskRecord record);
  // With what is noted of its failure.
  Status erase_disk(const std::string& disk_id);
  // Of disks (catalog_disks.cpp). nullopt: there is no such record.
  Result<std::optional<v1::DiskRecord>> load_disk(const std::string& id);
  // Changes the record as it is now, again if it changes meanwhile; kNotFound if there is none.
  Status update_disk(const std::string& id, const std::function<void(v1::DiskRecord&)>& change);
  // Replicas that are to be removed when their disk works again. Records that cannot be read are
  // left out: what they speak of stays.
  Result<std::vector<v1::RemovedRecord>> load_removed();
  Status put_removed(const std::string& replica, const std::string& volume,
                     const std::string& disk);
  Status erase_removed(const std::string& replica);
  Result<std::vector<v1::DiskFailureRecord>> load_disk_failures();
  Status put_disk_failure(const std::string& disk_id, const std::string& reason);
  // Ok if there is none.
  Status erase_disk_failure(const std::string& disk_id);

 private:
  meta::Change note_of_removal(const VolumeEntry& entry) const;
  Status put_new(const std::string& key, google::protobuf::Message& record);
  Result<v1::NodeRecord> find_node(const std::string& id, const std::string& name);

  meta::MetadataStore& store_;
  std::string cluster_;
  meta::Keys keys_;
};

}  // namespace cvol::volume
