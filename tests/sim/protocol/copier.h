// Copier: copies a joiner's difference (R10), for the driver of a replica; both sides of it.
//
// Primary: asks the joiner what it has above its commit point, adds what is newer here, and sends
// it in pieces of 1 to 4 blocks, each with its range locked by Replica::copy_piece. At the end it
// may compare all blocks in the same way: a difference then is a defect. Joiner: writes the pieces
// with the versions of the primary, while it is in that join and in no other.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/protocol/packet.h"
#include "tests/sim/protocol/world.h"

namespace cvol::sim {

class Node;

class Copier {
 public:
  explicit Copier(Node& node) : node_(node) {}

  // --- of the driver, primary ---
  void start(const replication::ReplicaId& joiner, uint64_t join, Seq commit_point);
  void stop(const replication::ReplicaId& joiner, uint64_t join);
  void copy(replication::OpId op, BlockRange range);
  void on_finished(replication::OpId op);
  void on_link_down(const replication::ReplicaId& peer);

  void on_packet(const Packet& packet);
  void reset();  // the process is gone
  std::string describe() const;

 private:
  struct Source {
    uint64_t join = 0;
    Seq commit_point;
    bool asked = false, comparing = false;
    std::deque<BlockRange> todo;
    std::set<replication::OpId> open;
    uint64_t differences = 0, waiting = 0;
  };

  void add_ranges(Source& source, const std::vector<BlockRange>& ranges, uint64_t largest);
  void go_on(const replication::ReplicaId& joiner);
  void on_newer(const Packet& packet);
  void on_piece_done(const Packet& packet);
  void write_piece(const Packet& packet);
  void compare(const Packet& packet);
  bool is_mine(const Packet& packet) const;

  Node& node_;
  std::map<replication::ReplicaId, Source> sources_;
  replication::ReplicaId opening_;  // the joiner whose piece is just being made
};

}  // namespace cvol::sim
