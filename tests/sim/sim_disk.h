// SimDisk: one engine on a simulated disk that can be crashed and opened again; for tests.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "volumed/io/sim/sim_reactor.h"
#include "volumed/store/engine.h"
#include "volumed/store/memory_table.h"

namespace cvol::sim {

// Decides which sectors of the writes that are not durable survive a loss of power.
using KeepSectors = std::function<bool(const io::SimWrite&, uint64_t sector)>;
// The two copies of a chunk table.
using SimTables = std::array<std::shared_ptr<store::MemoryTableState>, 2>;
SimTables new_tables();

// What is on a disk at `path` when its power is lost: takes it, and leaves the old tables dead.
struct DiskRemains {
  std::map<std::string, io::SimImage> files;
  SimTables tables;
};
DiskRemains lose_power(io::SimWorld& world, const std::string& path, const SimTables& tables,
                       const KeepSectors& keep);
// Puts it in place again. Nobody who had the files open before sees them.
void put_back(io::SimWorld& world, DiskRemains remains, SimTables& tables);

class SimDisk {
 public:
  SimDisk(io::SimWorld& world, store::FormatOptions format, store::EngineOptions options,
          std::string path = "/disk");
  ~SimDisk();

  // Formats; false if that failed (failure() says why).
  bool format();
  bool open();
  // Runs `task` to its end; false if the world stood still before.
  bool run(Task<void> task) { return node_->run(std::move(task)); }

  // Power loss: of the pending writes, `keep` decides; then the node is gone.
  using Keep = KeepSectors;
  void crash(const Keep& keep);
  // Orderly end.
  void close();
  // Puts a disk in place, as a crash left it; then open().
  using TableContent = std::map<std::string, std::string, std::less<>>;
  void load(const std::map<std::string, io::SimImage>& files, TableContent table,
            TableContent table2);
  // From now on the chunk table is what this opens, and not in memory.
  void use_tables(store::TableOpener opener) { opener_ = std::move(opener); }

  store::Engine& engine() { return *static_cast<store::Engine*>(engine_.get()); }
  io::SimReactor& node() { return *node_; }
  io::SimWorld& world() { return world_; }
  store::EngineOptions& options() { return options_; }  // of the next open()
  // The copies of the chunk table.
  store::MemoryTableState& table() { return *tables_[0]; }
  store::MemoryTableState& table2() { return *tables_[1]; }
  const Status& failure() const { return failure_; }

 private:
  void new_node();

  io::SimWorld& world_;
  store::FormatOptions format_;
  store::EngineOptions options_;
  store::TableOpener opener() const;

  const std::string path_;
  SimTables tables_ = new_tables();
  store::TableOpener opener_;
  std::unique_ptr<io::SimReactor> node_;
  std::unique_ptr<store::DiskEngine> engine_;
  Status failure_;
};

}  // namespace cvol::sim
