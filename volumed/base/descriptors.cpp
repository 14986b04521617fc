#include "volumed/base/descriptors.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>

namespace cvol {
namespace {

constexpr uint64_t kMostDescriptors = 1'048'576;
constexpr uint64_t kFewest = 4;

uint64_t share(uint64_t limit, uint64_t parts_of_64, uint64_t most) {
  return std::clamp(limit / 64 * parts_of_64, kFewest, most);
}

}  // namespace

uint64_t raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, kMostDescriptors);
  if (limit.rlim_cur < wanted) {
    const rlimit raised{wanted, limit.rlim_max};
    (void)::setrlimit(RLIMIT_NOFILE, &raised);
  }
  return descriptor_limit();
}

uint64_t descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  return std::min<uint64_t>(limit.rlim_cur, kMostDescriptors);
}

// In 64ths of the limit: 10 + 4 + 2 * 2 + 8 = 26 of the 32 that are half. gRPC has no bound for its
// connections; the API on TCP lives from the rest of the half.
ConnectionBudgets connection_budgets(uint64_t limit, uint64_t shards) {
  ConnectionBudgets budgets;
  budgets.nbd_tcp = share(limit, 10, 4096);
  budgets.nbd_unix = share(limit, 4, 4096);
  budgets.http = share(limit, 2, 256);
  budgets.replication =
      std::max<uint64_t>(share(limit, 8, 4096) / std::max<uint64_t>(shards, 1), kFewest);
  return budgets;
}

bool means_shortage(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

}  // namespace cvol
