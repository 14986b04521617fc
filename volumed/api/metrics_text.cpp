#include "volumed/api/metrics_text.h"

#include <fmt/format.h>
#include <algorithm>

#include <functional>
#include <iterator>

#include "volumed/api/convert.h"

namespace cvol::api {
namespace {

using volume::DiskView;
using volume::VolumeView;

// Collects one metric family after the other: "# HELP", "# TYPE", samples.
class Text {
 public:
  void family(const char* name, const char* type, const char* help) {
    name_ = name;
    fmt::format_to(std::back_inserter(text_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name,
                   type);
  }
  void sample(const std::string& labels, double value, const char* suffix = "") {
    fmt::format_to(std::back_inserter(text_), "{}{}{{{}}} {}\n", name_, suffix, labels, value);
  }
  void sample(const std::string& labels, uint64_t value, const char* suffix = "") {
    fmt::format_to(std::back_inserter(text_), "{}{}{{{}}} {}\n", name_, suffix, labels, value);
  }
  void histogram(const std::string& labels, const LatencyHistogram& histogram) {
    uint64_t count = 0;
    for (std::size_t i = 0; i < LatencyHistogram::kBuckets; ++i) {
      count += histogram.bucket(i);
      const bool last = i + 1 == LatencyHistogram::kBuckets;
      const std::string bound =
          last ? "+Inf" : fmt::format("{:g}", static_cast<double>(uint64_t{1} << i) / 1e6);
      sample(labels + ",le=\"" + bound + "\"", count, "_bucket");
    }
    sample(labels, static_cast<double>(histogram.sum_microseconds()) / 1e6, "_sum");
    sample(labels, count, "_count");
  }
  std::string take() { return std::move(text_); }

 private:
  const char* name_ = "";
  std::string text_;
};

std::string label(const char* name, const std::string& value) {
  return fmt::format("{}=\"{}\"", name, escape_label(value));
}

struct VolumeCounter {
  const char* name;
  const char* help;
  Counter VolumeMetrics::*counter;
};

constexpr VolumeCounter kVolumeCounters[] = {
    {"cvol_volume_read_operations_total", "Reads answered.", &VolumeMetrics::read_operations},
    {"cvol_volume_read_bytes_total", "Bytes read.", &VolumeMetrics::read_bytes},
    {"cvol_volume_write_operations_total", "Writes answered.", &VolumeMetrics::write_operations},
    {"cvol_volume_written_bytes_total", "Bytes written.", &VolumeMetrics::write_bytes},
    {"cvol_volume_flush_operations_total", "Flushes answered.", &VolumeMetrics::flush_operations},
    {"cvol_volume_trim_operations_total", "Trims answered.", &VolumeMetrics::trim_operations},
    {"cvol_volume_errors_total", "Requests that failed.", &VolumeMetrics::errors},
};

struct DiskCounter {
  const char* name;
  const char* help;
  Counter store::EngineMetrics::*counter;
};

constexpr DiskCounter kDiskCounters[] = {
    {"cvol_disk_journal_batches_total", "Batches appended to the journal.",
     &store::EngineMetrics::journal_batches},
    {"cvol_disk_journal_records_total", "Records appended to the journal.",
     &store::EngineMetrics::journal_records},
    {"cvol_disk_journal_written_bytes_total", "Bytes appended to the journal.",
     &store::EngineMetrics::journal_bytes},
    {"cvol_disk_destage_rounds_total", "Rounds of destage.", &store::EngineMetrics::destage_rounds},
    {"cvol_disk_destaged_chunks_total", "Chunks written by destage.",
     &store::EngineMetrics::destage_chunks},
    {"cvol_disk_destaged_bytes_total", "Bytes written by destage.",
     &store::EngineMetrics::destage_bytes},
    {"cvol_disk_damaged_blocks_total", "Blocks whose checksum failed.",
     &store::EngineMetrics::damaged_blocks},
    {"cvol_disk_no_space_errors_total", "Writes refused for lack of space.",
     &store::EngineMetrics::no_space_errors},
    {"cvol_disk_given_back_bytes_total", "Freed space that went back to the file system.",
     &store::EngineMetrics::given_back_bytes},
};

void add_volumes(Text& text, const std::vector<VolumeView>& volumes) {
  const auto name = [](const VolumeView& view) { return label("volume", view.record.name()); };
  text.family("cvol_volume_size_bytes", "gauge", "Size of the volume.");
  for (const auto& view : volumes) text.sample(name(view), view.record.size_bytes());
  text.family("cvol_volume_allocated_bytes", "gauge", "Space that the volume's chunks take.");
  for (const auto& view : volumes) text.sample(name(view), view.allocated_bytes);
  text.family("cvol_volume_connections", "gauge", "NBD connections to the volume.");
  for (const auto& view : volumes) text.sample(name(view), view.connections);
  text.family("cvol_volume_healthy", "gauge", "1 if the volume can be used.");
  for (const auto& view : volumes)
    text.sample(name(view), uint64_t{view.state != volume::VolumeState::kDamaged});
  for (const VolumeCounter& row : kVolumeCounters) {
    text.family(row.name, "counter", row.help);
    for (const auto& view : volumes) {
      if (view.metrics) text.sample(name(view), (view.metrics.get()->*row.counter).get());
    }
  }
  text.family("cvol_volume_read_latency_seconds", "histogram", "Time to answer a read.");
  for (const auto& view : volumes) {
    if (view.metrics) text.histogram(name(view), view.metrics->read_latency);
  }
  text.family("cvol_volume_write_latency_seconds", "histogram",
              "Time to answer a write, on stable storage.");
  for (const auto& view : volumes) {
    if (view.metrics) text.histogram(name(view), view.metrics->write_latency);
  }
}

// Of the replicas of this node, in a cluster.
void add_replicas(Text& text, const std::vector<VolumeView>& volumes) {
  const auto name = [](const VolumeView& view) { return label("volume", view.record.name()); };
  const auto gauge = [&](const char* family, const char* kind, const char* help,
                         const std::function<uint64_t(const VolumeView&)>& value) {
    text.family(family, kind, help);
    for (const auto& view : volumes) {
      if (view.local) text.sample(name(view), value(view));
    }
  };
  text.family("cvol_volume_replicas_wanted", "gauge", "Replicas that the volume is to have.");
  for (const auto& view : volumes) text.sample(name(view), uint64_t{view.record.replicas()});
  text.family("cvol_volume_replicas_in_sync", "gauge",
              "Replicas that hold every acknowledged write.");
  for (const auto& view : volumes)
    text.sample(name(view), static_cast<uint64_t>(view.record.in_sync_size()));
  text.family("cvol_volume_epoch", "gauge", "Raised with every change of primary or in-sync set.");
  for (const auto& view : volumes) text.sample(name(view), view.record.epoch());
  gauge("cvol_replica_primary", "gauge", "1 if this node's replica is the primary and serves.",
        [](const VolumeView& view) { return uint64_t{view.local->role == "active"}; });
  gauge("cvol_replica_in_sync", "gauge", "1 if this node's replica is in the in-sync set.",
        [](const VolumeView& view) { return uint64_t{view.local->trusted}; });
  gauge("cvol_replica_commit_point", "gauge", "Seq up to which every in-sync replica has all.",
        [](const VolumeView& view) { return view.local->commit_point; });
  gauge("cvol_resync_sent_bytes", "counter",
        "Bytes that this node's replica has sent to bring others up to date.",
        [](const VolumeView& view) { return view.local->resync_sent_bytes; });
  gauge("cvol_resync_left_bytes", "gauge",
        "Bytes that the resyncs from here still have to look at.", [](const VolumeView& view) {
          uint64_t left = 0;
          for (const auto& resync : view.local->resyncs)
            left += resync.total_bytes - std::min(resync.total_bytes, resync.done_bytes);
          return left;
        });
  gauge("cvol_resync_seconds_left", "gauge", "Time until the volume is safe again, as it goes.",
        [](const VolumeView& view) {
          uint64_t left = 0;
          for (const auto& resync : view.local->resyncs) left = std::max(left, resync.seconds_left);
          return left;
        });
}

void add_disks(Text& text, const std::vector<DiskView>& disks) {
  const auto name = [](const DiskView& view) { return label("disk", view.path); };
  const auto gauge = [&](const char* family, const char* help,
                         const std::function<uint64_t(const DiskView&)>& value) {
    text.family(family, "gauge", help);
    for (const DiskView& view : disks) text.sample(name(view), value(view));
  };
  gauge("cvol_disk_healthy", "1 if the disk works.",
        [](const DiskView& view) { return uint64_t{view.problem.empty()}; });
  gauge("cvol_disk_capacity_bytes", "Space for chunks.",
        [](const DiskView& view) { return view.info.capacity_bytes; });
  gauge("cvol_disk_allocated_bytes", "Space that chunks take.",
        [](const DiskView& view) { return view.info.allocated_bytes; });
  gauge("cvol_disk_journal_size_bytes", "Size of the journal.",
        [](const DiskView& view) { return view.info.journal_bytes; });
  gauge("cvol_disk_journal_used_bytes", "Part of the journal that waits for destage.",
        [](const DiskView& view) { return view.info.journal_used_bytes; });
  gauge("cvol_disk_replicas", "Replicas on the disk.",
        [](const DiskView& view) { return view.info.replicas; });
  gauge("cvol_disk_scrub_running", "1 while the disk is scrubbed or verified.",
        [](const DiskView& view) {
          return uint64_t{view.scrub.record.state == store::ScrubState::kRunning};
        });
  text.family("cvol_disk_scrub_progress_ratio", "gauge",
              "How far the scrub is that runs or was stopped, 0 to 1.");
  for (const DiskView& view : disks) text.sample(name(view), view.scrub.progress);
  gauge("cvol_disk_scrub_last_completed_timestamp_seconds",
        "When a scrub last read everything; 0: never.",
        [](const DiskView& view) { return view.scrub.record.completed; });
  gauge("cvol_disk_scrub_last_damaged_blocks", "Damaged blocks that the last whole scrub found.",
        [](const DiskView& view) { return view.scrub.record.completed_damaged; });
  text.family("cvol_disk_scrub_read_bytes_total", "counter", "Bytes read by scrubs.");
  for (const DiskView& view : disks) text.sample(name(view), view.scrub.bytes_total);
  text.family("cvol_disk_scrub_damaged_blocks_total", "counter",
              "Damaged blocks found by scrubs, once in each.");
  for (const DiskView& view : disks) text.sample(name(view), view.scrub.damaged_total);
  for (const DiskCounter& row : kDiskCounters) {
    text.family(row.name, "counter", row.help);
    for (const DiskView& view : disks) {
      if (view.metrics != nullptr) text.sample(name(view), (view.metrics->*row.counter).get());
    }
  }
  text.family("cvol_disk_journal_latency_seconds", "histogram",
              "Time of a journal batch, to stable storage.");
  for (const DiskView& view : disks) {
    if (view.metrics != nullptr) text.histogram(name(view), view.metrics->journal_latency);
  }
}

}  // namespace

std::string escape_label(const std::string& value) {
  std::string escaped;
  for (char c : value) {
    if (c == '\n') {
      escaped += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string metrics_text(volume::VolumeManager& manager) {
  Text text;
  const std::vector<VolumeView> volumes = manager.volumes();
  text.family("cvol_build_info", "gauge", "Version of volumed.");
  text.sample(label("version", version()), uint64_t{1});
  text.family("cvol_volumes", "gauge", "Volumes on this node, by state.");
  uint64_t counts[4] = {};
  for (const VolumeView& view : volumes) ++counts[static_cast<int>(view.state)];
  const char* const states[4] = {"available", "attached", "mounted", "damaged"};
  for (int i = 0; i < 4; ++i) text.sample(label("state", states[i]), counts[i]);
  add_volumes(text, volumes);
  if (manager.clustered()) add_replicas(text, volumes);
  add_disks(text, manager.disks());
  return text.take();
}

}  // namespace cvol::api
