// What the engine keeps for replication: state, commit point, versions and zeroed ranges.
#include <algorithm>

#include "volumed/store/engine.h"

namespace cvol::store {
namespace {

Status not_yet() {
  return Status(Code::kUnsupported, "the disk engine does not keep this yet");
}

}  // namespace

Task<Status> Engine::put_replica_state(ReplicaNumber, std::string) {
  co_return not_yet();
}

Result<std::string> Engine::replica_state(ReplicaNumber) const {
  return std::string();
}

void Engine::note_commit_point(ReplicaNumber number, uint64_t seq) {
  Replica* replica = loaded_ ? find_replica(number) : nullptr;
  if (replica != nullptr) replica->commit_point = std::max(replica->commit_point, seq);
}

Task<Result<std::vector<ChunkVersion>>> Engine::changed_chunks(ReplicaNumber, uint64_t) {
  co_return not_yet();
}

std::vector<ZeroedRange> Engine::zeroed_after(ReplicaNumber, uint64_t) const {
  return {};
}

}  // namespace cvol::store
