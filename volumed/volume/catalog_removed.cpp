// Catalog: what is left of volumes that were removed, and records that were lost and are put back.
#include <google/protobuf/util/time_util.h>

#include "volumed/meta/record_rules.h"
#include "volumed/volume/catalog.h"

namespace cvol::volume {
namespace {

using google::protobuf::util::TimeUtil;
constexpr int64_t kKeptSeconds = int64_t{90} * 24 * 3600;
constexpr std::size_t kMostChanges = 64;  // of a transaction: etcd takes 128

}  // namespace

meta::Change Catalog::note_of_removal(const VolumeEntry& entry) const {
  v1::RemovedVolumeRecord note;
  note.set_volume_id(entry.record.id());
  note.set_name(entry.record.name());
  *note.mutable_time() = TimeUtil::GetCurrentTime();
  return {keys_.removed_volume(entry.record.id()), meta::encode_record(note), 0};
}

Result<bool> Catalog::was_removed(const std::string& volume_id) {
  auto note = store_.get(keys_.removed_volume(volume_id));
  if (!note) return note.status();
  return note->has_value();
}

Result<bool> Catalog::was_name_removed(const std::string& name) {
  auto entries = store_.list(keys_.removed_volumes());
  if (!entries) return entries.status();
  for (const meta::Entry& entry : *entries) {
    auto note = meta::parse_record<v1::RemovedVolumeRecord>(entry.key, entry.value);
    if (note && note->name() == name) return true;
  }
  return false;
}

Result<std::string> Catalog::name_of(const std::string& volume_id) {
  const std::string prefix = keys_.name("");
  auto entries = store_.list(prefix);
  if (!entries) return entries.status();
  for (const meta::Entry& entry : *entries) {
    auto name = meta::parse_record<v1::NameRecord>(entry.key, entry.value);
    if (name && name->volume_id() == volume_id) return entry.key.substr(prefix.size());
  }
  return std::string();
}

Result<bool> Catalog::has_record(const std::string& volume_id) {
  auto entry = store_.get(keys_.volume(volume_id));
  if (!entry) return entry.status();
  return entry->has_value();
}

Status Catalog::forget_old_removals() {
  auto entries = store_.list(keys_.removed_volumes());
  if (!entries) return entries.status();
  const int64_t oldest = TimeUtil::GetCurrentTime().seconds() - kKeptSeconds;
  meta::Transaction old;
  for (const meta::Entry& entry : *entries) {
    auto note = meta::parse_record<v1::RemovedVolumeRecord>(entry.key, entry.value);
    if (!note || note->time().seconds() > oldest) continue;  // one that cannot be read stays
    old.changes.push_back({entry.key, {}, 0});
    if (old.changes.size() < kMostChanges) continue;
    CVOL_TRY(store_.commit(old).status());
    old.changes.clear();
  }
  return old.changes.empty() ? Status::ok() : store_.commit(old).status();
}

Status Catalog::put_back_volume(VolumeEntry& entry) {
  const std::string key = keys_.volume(entry.record.id());
  const std::string name_key = keys_.name(entry.record.name());
  auto there = store_.get(key);
  if (!there) return there.status();
  if (*there && meta::read_volume(key, (*there)->value))
    return Status(Code::kFailedPrecondition,
                  "the record of volume '" + entry.record.name() + "' is there");
  auto name = store_.get(name_key);
  if (!name) return name.status();
  if (*name) {
    auto owner = meta::parse_record<v1::NameRecord>(name_key, (*name)->value);
    if (owner && owner->volume_id() != entry.record.id())
      return Status(Code::kAlreadyExists, "the name '" + entry.record.name() +
                                              "' belongs to another volume by now, " +
                                              owner->volume_id() + "; remove that one first");
  }
  v1::NameRecord ours;
  ours.set_volume_id(entry.record.id());
  auto text = meta::write_volume(key, &entry.record, entry.record);
  if (!text) return text.status();
  auto done = store_.commit(
      {{{key, *there ? (*there)->revision : 0}, {name_key, *name ? (*name)->revision : 0}},
       {{key, *text, 0},
        {name_key, meta::encode_record(ours), 0},
        {keys_.removed_volume(entry.record.id()), {}, 0}}});
  if (!done) return done.status();
  if (!done->applied)
    return Status(Code::kBusy, "the records of volume '" + entry.record.name() +
                                   "' changed meanwhile; try again");
  entry.revision = done->revision;
  return Status::ok();
}

}  // namespace cvol::volume
