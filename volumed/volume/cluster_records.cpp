// Records of volumes that go, or cannot be read any more, while the volumes are used.
//
// A removal passes through the state "removing", which frees the name in the same transaction. A
// record that goes while its name still stands for it was not removed by cvol (it was deleted by
// hand, or the metadata store lost it): the volume goes on with what was known last, nothing of it
// is taken away, and the fault is told until the record is there again.
#include "volumed/base/log.h"
#include "volumed/volume/cluster.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
constexpr auto kAskAgain = 1s;  // the store, which is away

}  // namespace

// On the records' thread, which waits for no store.
void Cluster::record_vanished(const std::string& id) {
  const auto known = entry(id);
  if (!known || known->record.state() == "removing") return apply_volume(id, std::nullopt);
  reconcilers_->post("vanished " + id,
                     [this, id, name = known->record.name()] { look_why_it_vanished(id, name); });
}

void Cluster::look_why_it_vanished(const std::string& id, const std::string& name) {
  while (true) {
    auto stands = catalog_.stands_for(name, id);
    if (stands) {
      if (*stands) return note_lost_record(id, "is gone from the metadata store");
      return learned_gone(id);
    }
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, kAskAgain, [this] { return stopping_; })) return;
  }
}

void Cluster::note_lost_record(const std::string& id, const std::string& what) {
  const auto known = entry(id);
  const std::string name = known ? known->record.name() : id;
  {
    std::lock_guard lock(mutex_);
    if (!lost_records_.insert_or_assign(id, what).second) return;
  }
  log::error("volume", "a volume's record is lost; what is open goes on",
             {{"volume", name}, {"id", id}, {"what", what}});
  if (options_.on_event)
    options_.on_event("record_lost", name,
                      "the record of the volume " + what + "; what is open goes on");
}

std::vector<std::pair<std::string, std::string>> Cluster::lost_records() {
  std::vector<std::pair<std::string, std::string>> all;
  std::lock_guard lock(mutex_);
  for (const auto& [id, what] : lost_records_) {
    const auto known = entries_.find(id);
    const std::string name = known == entries_.end() ? id : known->second.record.name();
    all.emplace_back(name, "the record of volume '" + name + "' (" + id + ") " + what +
                               "; what is open goes on, nothing of it can be changed. Put the "
                               "record back from a backup of the metadata store, before any "
                               "volumed is restarted");
  }
  return all;
}

}  // namespace cvol::volume
