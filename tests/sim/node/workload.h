// VolumeWorkload: clients of a gateway that read, write and zero at random, many at once, and check
// every answer.
#pragma once

#include <functional>
#include <string>

#include "tests/sim/node/lanes.h"
#include "tests/sim/node/node.h"

namespace cvol::sim {

class VolumeWorkload {
 public:
  struct Shape {
    uint64_t blocks = 64;                       // that are used, of a volume that may be larger
    uint32_t write = 50, zero = 10, read = 35;  // of a hundred; the rest: flush and status
    uint32_t unaligned = 30;                    // of a hundred
    uint64_t most_blocks = 8;                   // of one operation
    io::Nanoseconds think = 2 * io::kMillisecond;
    bool no_space_allowed = false;
    bool damage_allowed = false;
  };

  VolumeWorkload(io::SimWorld& world, Shape shape)
      : world_(world), shape_(shape), lanes_(shape.blocks * kLanes) {}

  // So many operations in all, by so many clients of the node's gateway; more can be added.
  void start(Node& node, uint64_t clients, uint64_t operations);
  // Again, at another node or in another life of the same one.
  void go_on(Node& node, uint64_t clients) { start(node, clients, 0); }
  // No operations are begun any more.
  void stop() { left_ = 0; }
  uint64_t left() const { return left_; }
  uint64_t running() const { return running_; }
  bool done() const { return left_ == 0 && running_ == 0; }

  Task<void> write_lanes(replication::Gateway* gateway, uint64_t lane, uint64_t count);
  Task<void> zero_lanes(replication::Gateway* gateway, uint64_t lane, uint64_t count);
  Task<void> read_lanes(replication::Gateway* gateway, uint64_t lane, uint64_t count);
  Task<void> read_all(replication::Gateway* gateway);

  Shape& shape() { return shape_; }
  Lanes& lanes() { return lanes_; }
  void set_session(uint64_t session) { session_ = session; }
  // The first thing that is wrong, or nothing.
  const std::string& complaint() const { return complaint_; }
  uint64_t acknowledged() const { return acknowledged_; }
  uint64_t reads() const { return reads_; }
  uint64_t no_space() const { return no_space_; }
  uint64_t damaged() const { return damaged_; }
  const Status& last() const { return last_; }  // of the last operation that ended

 private:
  Task<void> client(replication::Gateway* gateway, io::SimReactor* reactor);
  void complain(const std::string& what);
  bool judge(const Status& status, const char* what);

  io::SimWorld& world_;
  Shape shape_;
  Lanes lanes_;
  uint64_t session_ = 1;
  uint64_t left_ = 0;
  uint64_t running_ = 0;
  uint64_t acknowledged_ = 0, reads_ = 0, no_space_ = 0, damaged_ = 0;
  std::string complaint_;
  Status last_;
};

}  // namespace cvol::sim
