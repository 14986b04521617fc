// Exchange: replication on one shard: its connections, the replicas that live on its disks, the
// gateways of volumes that are used here, and the clock that drives them.
//
// Threading: the shard's thread. Hosts and gateways register themselves and must be gone before it.
// Idle: the clock runs only while there is a volume with more than one replica, or work under way;
// beacons of all volumes leave together, one send per peer.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "replication/core/options.h"
#include "replication/node/mesh.h"
#include "replication/node/register.h"

namespace cvol::replication {

class ReplicaHost;
class Gateway;

// Where the shards of a node are; from its `alive` key.
struct NodeEntry {
  Uuid process;
  std::vector<std::string> addresses;  // by shard
  std::map<Uuid, uint16_t> disks;      // disk -> shard
};

class Exchange final : public MeshHandler {
 public:
  Exchange(io::Reactor& reactor, Register& reg, Mesh::Options mesh, Options options);
  ~Exchange() override;

  Mesh& mesh() { return mesh_; }
  io::Reactor& reactor() { return reactor_; }
  Register& reg() { return register_; }
  const Options& options() const { return options_; }
  const Endpoint& self() const { return self_; }

  // The nodes that are there. A node that is gone keeps its last entry: it may come back.
  void set_node(const NodeId& node, NodeEntry entry);
  // The node is not there, as far as the metadata store knows: it is dialed seldom until set_node.
  void set_away(const NodeId& node);
  // The node was removed from the cluster: it is not dialed any more.
  void forget_node(const NodeId& node);
  // Nothing if its node is not known.
  std::optional<Endpoint> endpoint_of(const Member& member) const;
  bool is_up(const Endpoint& endpoint) const { return mesh_.is_up(endpoint); }
  void send(const Endpoint& to, const wire::FrameHeader& header, std::span<const std::byte> body,
            std::span<const std::byte> payload = {}) {
    mesh_.send(to, header, body, payload);
  }

  void add(ReplicaHost* host);
  void remove(ReplicaHost* host);
  void add(Gateway* gateway);
  void remove(Gateway* gateway);
  // The replica of the volume that lives here, or nullptr.
  ReplicaHost* host_of(const Uuid& volume) const;
  // The register's record of a volume, for whoever works with it here.
  void set_record(const Uuid& volume, const Record& record);
  // Somebody says that the process is dead (kDead). A connection to that very process that answers
  // outweighs the word, which may be forged or late; without one it is believed at once.
  void hear_of_death(const NodeId& node, const Uuid& process);
  // The process is known to be dead.
  void process_died(const NodeId& node, const Uuid& process);
  // Whether a connection to that very process is open and answers within `patience`; false at once
  // if there is none.
  Task<bool> link_answers(NodeId node, Uuid process, io::Nanoseconds patience);
  // Told of every such death, on the shard's thread; may be empty.
  std::function<void(const NodeId& node, const Uuid& process)> on_death;
  // Answers what other nodes ask, on the shard's thread, without waiting for anything; may be
  // empty.
  std::function<std::string(std::string_view question)> on_question;
  // Asks another node. Nothing: it does not answer within `patience`, or does not understand.
  Task<std::optional<std::string>> ask(Endpoint endpoint, std::string question,
                                       io::Nanoseconds patience);
  // The connection to a peer that does not answer is made anew.
  void reset(const Member& member);
  // Whether the process at `endpoint` answers within `patience`: a stopped one, or one that is cut
  // off from here, does not.
  Task<bool> ping(Endpoint endpoint, io::Nanoseconds patience);

  Task<void> close();

  // MeshHandler
  void on_frame(const Endpoint& from, Frame frame) override;
  void on_up(const Endpoint& peer, const Uuid& process) override;
  void on_down(const Endpoint& peer) override;

 private:
  Task<void> clock();
  void start_clock();
  void turn(io::Nanoseconds now);
  void answer_question(const Endpoint& from, const Frame& frame);
  bool is_linked(const NodeId& node, const Uuid& process) const;
  Task<void> weigh_death(NodeId node, Uuid process);
  void say_nobody_is_here(const Endpoint& to, const wire::FrameHeader& question);
  std::vector<Gateway*> all_gateways() const;

  io::Reactor& reactor_;
  Register& register_;
  const Options options_;
  const Endpoint self_;
  Mesh mesh_;
  std::map<NodeId, NodeEntry> nodes_;
  std::map<Endpoint, Uuid> processes_;  // at the other end of connections, now or last
  std::unordered_map<uint64_t, ReplicaHost*> hosts_by_tag_;
  // A host, and how it was when it was last looked at: whoever rests is not even touched.
  struct Hosted {
    ReplicaHost* host = nullptr;
    bool rests = false;
    bool busy = false;
  };
  std::vector<Hosted> hosts_;  // in the order of their coming
  // Of one volume there may be several: that of its attachment, and those that only ask.
  std::unordered_map<uint64_t, std::vector<Gateway*>> gateways_;
  std::unordered_map<uint64_t, bool> pings_;                            // number -> answered
  std::unordered_map<uint64_t, std::optional<std::string>> questions_;  // number -> answer
  uint64_t next_ping_;                                                  // and question
  io::Nanoseconds last_beacons_ = 0;
  bool all_next_ = false;  // with the next beacons those that rest are looked at too
  bool clock_runs_ = false;
  bool closing_ = false;
  uint64_t weighed_ = 0;  // words of death that are being weighed
  io::CancelToken cancel_;
  io::Scope scope_;
};

}  // namespace cvol::replication
