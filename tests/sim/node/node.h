// Node: a machine of the simulated cluster: its disk, and what runs on it while it is up: engine,
// exchange, a replica or none, a gateway or none.
//
// It may be crashed at any event; its disk stays, with any part of what was not synced.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "replication/node/exchange.h"
#include "replication/node/gateway.h"
#include "replication/node/replica_host.h"
#include "tests/sim/node/register.h"
#include "tests/sim/sim_disk.h"

namespace cvol::sim {

class Node {
 public:
  struct Parts {
    io::SimWorld* world = nullptr;
    uint32_t number = 0;  // from 1 on; also its machine's
    Uuid cluster;
    replication::NodeId node;
    Uuid disk;
    replication::ReplicaId replica;  // nil: none
    uint64_t size_bytes = 0;
    store::FormatOptions format;
    store::EngineOptions engine;
    replication::Options options;
    std::function<void(const std::string&)> event;
    std::function<void(Node&)> ready;  // it has come up: introduces it to the others
  };

  explicit Node(Parts parts);
  ~Node();

  const Parts& parts() const { return parts_; }
  uint32_t number() const { return parts_.number; }
  std::string address() const { return "node" + std::to_string(parts_.number); }
  std::string path() const { return "/" + address(); }
  bool has_replica() const { return !parts_.replica.is_nil(); }
  replication::NodeEntry entry() const;
  const Uuid& process() const { return process_; }

  // Makes the disk and, on it, the replica. Before anything else.
  void set_register(SimRegister& reg) { reg_ = &reg; }
  void format();
  void start();
  void crash(const KeepSectors& keep, io::SimReactor::Death death);
  // Orderly.
  void stop();
  bool up() const { return up_; }
  bool down() const { return reactor_ == nullptr; }
  const std::string& problem() const { return problem_; }  // why it did not come up
  void pause() { reactor_->pause(); }
  void resume() { reactor_->resume(); }

  // A front end's; the newest one.
  void open_gateway(uint64_t session_generation);
  // Of the same session, anew; the one before is closed.
  void reopen_gateway();
  // One more, of the caller's, who closes it.
  std::unique_ptr<replication::Gateway> make_gateway(uint64_t session_generation);
  // Not opened again when the node comes up.
  void forget_gateway() { gateway_session_ = 0; }
  replication::Gateway* gateway() { return gateway_.get(); }

  io::SimReactor& reactor() { return *reactor_; }
  replication::Exchange& exchange() { return *exchange_; }
  replication::ReplicaHost* host() { return host_.get(); }
  store::DiskEngine& engine() { return *engine_; }
  store::ReplicaNumber replica_number() const { return number_; }
  RegisterClient& register_client() { return *register_; }
  store::MemoryTableState& table() { return *tables_[0]; }
  // The disk as it is, while the node is down; and an older image of it in its place.
  DiskRemains image() const;
  void restore(const DiskRemains& image);
  // Of this machine only.
  void set_faults(std::shared_ptr<const io::SimFaults> faults);
  // Bit rot in every copy of this block that the disk's files hold, of so many bytes, and of at
  // most so many in the journal: one bit there is found again when it is read, but more, in what
  // was written last, looks like a write that was never finished. How many copies.
  uint64_t damage_block(uint64_t block, uint64_t bytes = 1, uint64_t journal_bytes = UINT64_MAX);
  // One line for people.
  std::string status() const;

 private:
  Task<void> make_disk();
  Task<void> boot();
  Task<void> shut_down();
  static Task<void> close_gateway(replication::Gateway* gateway);
  void bury();

  Parts parts_;
  SimRegister* reg_ = nullptr;
  SimTables tables_ = new_tables();
  std::shared_ptr<const io::SimFaults> faults_;
  Uuid process_;
  bool up_ = false;
  std::string problem_;
  store::ReplicaNumber number_ = 0;
  std::unique_ptr<io::SimReactor> reactor_;
  std::unique_ptr<RegisterClient> register_;
  std::unique_ptr<store::DiskEngine> engine_;
  std::unique_ptr<replication::Exchange> exchange_;
  std::unique_ptr<replication::ReplicaHost> host_;
  std::unique_ptr<replication::Gateway> gateway_;
  std::vector<std::unique_ptr<replication::Gateway>> old_gateways_;
  uint64_t gateway_session_ = 0;
  std::vector<std::unique_ptr<io::SimReactor>> graveyard_;
};

}  // namespace cvol::sim
