#include "volumed/volume/cluster_register.h"

#include "replication/wire/frame.h"
#include "volumed/base/log.h"

namespace cvol::volume {

using replication::CasResult;

// One volume's requests go one after another; different volumes do not wait for each other much.
Worker& StoreRegister::worker_of(const Uuid& volume) const {
  const uint64_t tag = replication::wire::tag_of(volume);
  return *cluster_.proposers_[tag % cluster_.proposers_.size()];
}

void StoreRegister::propose(const Uuid& volume, const replication::Record& next,
                            std::function<void(CasResult, uint64_t)> done) {
  const bool taken =
      worker_of(volume).post([this, id = volume.to_string(), next, done = std::move(done)] {
        CasResult result = CasResult::kUnknown;
        uint64_t revision = 0;
        auto known = cluster_.entry(id);
        Result<VolumeEntry> entry = Status(Code::kNotFound, "");
        if (known && known->revision == next.revision) {
          entry = *known;
        } else {
          entry = cluster_.catalog_.load_volume(id);
        }
        if (!entry) {
          // A record that is gone can take no change; anything else is no answer.
          if (entry.code() == Code::kNotFound) result = CasResult::kConflict;
        } else if (entry->revision != next.revision) {
          result = CasResult::kConflict;
        } else {
          v1::VolumeRecord record = entry->record;
          from_replication(next, record);
          VolumeEntry changed = *entry;
          const Status written = cluster_.catalog_.update_volume(changed, std::move(record));
          if (written) {
            result = CasResult::kApplied;
            revision = changed.revision;
            cluster_.learned(changed);
          } else if (written.code() == Code::kBusy) {
            result = CasResult::kConflict;
          } else {
            log::warning("volume", "the metadata store does not answer; the change is sent again",
                         {{"volume", entry->record.name()}, {"error", written.message()}});
          }
        }
        reactor_.post([done, result, revision] { done(result, revision); });
      });
  (void)taken;  // stopping: nobody waits for the answer
}

void StoreRegister::fetch(const Uuid& volume,
                          std::function<void(Result<replication::Record>)> done) {
  const bool taken =
      worker_of(volume).post([this, id = volume.to_string(), done = std::move(done)] {
        auto entry = cluster_.catalog_.load_volume(id);
        Result<replication::Record> record = entry.status().is_ok()
                                                 ? to_replication(entry->record, entry->revision)
                                                 : Result<replication::Record>(entry.status());
        if (entry) cluster_.learned(*entry);
        reactor_.post([done, record] { done(record); });
      });
  (void)taken;
}

}  // namespace cvol::volume
