// Register: what replication asks of the metadata store; the volume layer and the simulator
// implement it.
//
// Threading: called on a shard's thread; must not block; `done` is called on the same thread,
// later.
#pragma once

#include <functional>

#include "replication/core/driver.h"
#include "volumed/base/result.h"

namespace cvol::replication {

class Register {
 public:
  virtual ~Register() = default;
  // Compare-and-swap of the volume's record at revision next.revision (R5: an answer that is not
  // certain is kUnknown).
  virtual void propose(const Uuid& volume, const Record& next,
                       std::function<void(CasResult, uint64_t revision)> done) = 0;
  // A linearizable read.
  virtual void fetch(const Uuid& volume, std::function<void(Result<Record>)> done) = 0;
};

}  // namespace cvol::replication
