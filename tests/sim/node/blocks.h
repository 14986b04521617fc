// BlockScenario: named scenarios that look at single blocks: at what a client reads there, and at
// what each node's disk engine holds.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>

#include "tests/sim/node/scenario.h"

namespace cvol::sim {

class BlockScenario : public NodeScenario {
 protected:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  using Memory = std::unique_ptr<std::byte[], Free>;
  static Memory blocks_of(uint64_t count, uint8_t value) {
    Memory memory(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, count * kBlockBytes)));
    std::memset(memory.get(), value, count * kBlockBytes);
    return memory;
  }
  static Task<void> fill(replication::Gateway* gateway, uint64_t block, uint64_t count,
                         uint8_t value, Status* status) {
    const Memory memory = blocks_of(count, value);
    *status = co_await gateway->write(block * kBlockBytes, {memory.get(), count * kBlockBytes},
                                      /*fua=*/false);
  }
  static Task<void> discard(replication::Gateway* gateway, uint64_t block, uint64_t count,
                            Status* status) {
    *status = co_await gateway->trim(block * kBlockBytes, count * kBlockBytes, /*fua=*/false);
  }
  static Task<void> ask_engine(Node* node, uint64_t block, int* value) {
    const Memory memory = blocks_of(1, 0xee);
    const Status read = co_await node->engine().read(node->replica_number(), block * kBlockBytes,
                                                     {memory.get(), kBlockBytes});
    *value = read ? static_cast<int>(memory[0]) : -1;
  }
  static Task<void> ask_gateway(replication::Gateway* gateway, uint64_t block, int* value) {
    const Memory memory = blocks_of(1, 0xee);
    const Status read = co_await gateway->read(block * kBlockBytes, {memory.get(), kBlockBytes});
    *value = read ? static_cast<int>(memory[0]) : -1;
  }

  // Whole blocks of one value, acknowledged.
  void put(uint64_t block, uint64_t count, uint8_t value) {
    Status status;
    ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                                 fill(&cluster().gateway(), block, count, value, &status)));
    ASSERT_TRUE(status) << status.message();
  }
  void discard(uint64_t block, uint64_t count) {
    Status status;
    ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                                 discard(&cluster().gateway(), block, count, &status)));
    ASSERT_TRUE(status) << status.message();
  }
  // The first byte of the block: in that node's engine, for a client. -1: an error.
  int held_by(Node& node, uint64_t block) {
    int value = -2;
    EXPECT_TRUE(cluster().run_on(node, ask_engine(&node, block, &value)));
    return value;
  }
  int client_sees(uint64_t block) {
    int value = -2;
    EXPECT_TRUE(cluster().run_on(cluster().gateway_node(),
                                 ask_gateway(&cluster().gateway(), block, &value)));
    return value;
  }

  // Those of the whole cluster, to be changed for one node.
  std::shared_ptr<io::SimFaults> usual_faults() {
    return std::make_shared<io::SimFaults>(cluster().world().faults);
  }
  void slow_disk(Node& node, io::Nanoseconds each) {
    const auto faults = usual_faults();
    faults->disk_low = faults->disk_high = each;
    node.set_faults(faults);
  }
  void usual_disk(Node& node) { node.set_faults(usual_faults()); }

  // Two replicas, and the clients on a third node.
  static ClusterShape two_replicas() {
    ClusterShape shape;
    shape.nodes = 3;
    shape.replicas = 2;
    shape.gateway_node = 3;
    return shape;
  }
  void crash_and_wait_until_out(Node& node) {
    cluster().crash(node);
    wait([&] { return !cluster().in_sync(node) && cluster().serving(); }, 20 * io::kSecond,
         "it is out of the set");
  }
};

}  // namespace cvol::sim
