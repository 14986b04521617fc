// StoreRegister: replication's compare-and-swaps and reads on the metadata store.
#pragma once

#include "replication/node/register.h"
#include "volumed/volume/cluster.h"

namespace cvol::volume {

class StoreRegister final : public replication::Register {
 public:
  StoreRegister(Cluster& cluster, io::Reactor& reactor) : cluster_(cluster), reactor_(reactor) {}
  void propose(const Uuid& volume, const replication::Record& next,
               std::function<void(replication::CasResult, uint64_t)> done) override;
  void fetch(const Uuid& volume, std::function<void(Result<replication::Record>)> done) override;

 private:
  Worker& worker_of(const Uuid& volume) const;
  Cluster& cluster_;
  io::Reactor& reactor_;
};

struct Cluster::ShardPart {
  io::Shard* shard = nullptr;
  uint16_t index = 0;
  std::unique_ptr<StoreRegister> reg;
  std::unique_ptr<replication::Exchange> exchange;  // used on the shard
};

}  // namespace cvol::volume
