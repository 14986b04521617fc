// DamagedDisk: a disk with known contents whose files a test may damage before it is opened.
//
// Three replicas with blocks that were destaged, blocks that are only in the journal (the close is
// not a clean one), whole chunks and zeroes. Every block's content names itself, so it is told
// which block lies at a place of a file. The chunk table is in memory, or RocksDB in a folder.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/block_model.h"
#include "tests/sim/sim_disk.h"

namespace cvol::sim {

constexpr uint64_t kReplicas = 3;
constexpr uint64_t kReplicaBlocks = 256;

// Block `block` of replica number `replica`.
struct BlockName {
  uint64_t replica = 0;
  uint64_t block = 0;
  auto operator<=>(const BlockName&) const = default;
};

// The values that were acknowledged last. A value carries its replica's number.
class Contents {
 public:
  uint64_t& at(BlockName name) { return values_[name.replica * kReplicaBlocks + name.block]; }
  static uint64_t value(uint64_t replica, uint64_t number) { return number * 16 + replica; }

 private:
  std::vector<uint64_t> values_ = std::vector<uint64_t>((kReplicas + 1) * kReplicaBlocks);
};

// What became of a damaged disk.
struct Outcome {
  Status opened;
  std::set<BlockName> errors;  // kDamaged
  std::set<BlockName> wrong;   // neither an error nor what was acknowledged
};

// Operations, one at a time.
Status write(SimDisk& disk, Contents& contents, uint64_t replica, uint64_t first, uint64_t count,
             uint64_t number);
Status zero(SimDisk& disk, Contents& contents, uint64_t replica, uint64_t first, uint64_t count);
Status destage(SimDisk& disk);
// Makes replicas 1 to kReplicas.
bool create_replicas(SimDisk& disk);
// Reads every block of every replica.
void read_all(SimDisk& disk, Contents& contents, Outcome& outcome);

class DamagedDisk {
 public:
  // With a folder the chunk table is RocksDB, in subfolders of it.
  explicit DamagedDisk(std::filesystem::path folder = {});

  using Bytes = std::vector<std::byte>;
  // The files of the disk as they were closed, by name: "label", "journal", "table/CURRENT" ...
  const std::map<std::string, Bytes>& files() const { return files_; }
  // Which block's content lies at this 4 KiB of a file, if it is one's.
  std::optional<BlockName> block_at(const std::string& file, uint64_t offset) const;
  // Ring blocks of the journal's batches that are not destaged yet, as offsets in the file.
  struct Batch {
    uint64_t header_at, payload_at, end_at;
  };
  const std::vector<Batch>& batches() const { return batches_; }
  // What the last batch wrote: no later one proves that it was there.
  const std::set<BlockName>& last_write() const { return last_write_; }

  // Opens the disk with `name` replaced by `damaged`, and reads it. Once more after that if
  // `twice`: what was mended stays mended, and what was told is told again.
  Outcome open_with(const std::string& name, const Bytes& damaged, bool twice);

 private:
  store::FormatOptions format() const;
  void build();
  void find_batches();
  void put_files(SimDisk& disk, const std::string& name, const Bytes& damaged);
  store::TableOpener opener() const;

  std::filesystem::path folder_;
  std::map<std::string, Bytes> files_;
  SimDisk::TableContent table_;  // if in memory
  Contents contents_;
  std::vector<Batch> batches_;
  std::set<BlockName> last_write_;
};

}  // namespace cvol::sim
