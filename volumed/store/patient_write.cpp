#include "volumed/store/patient_write.h"

#include <algorithm>
#include <cerrno>

#include "volumed/base/units.h"

namespace cvol::store {
namespace {

// Takes the first `bytes` out of the vectors.
void drop_front(std::vector<iovec>& iov, uint64_t bytes) {
  std::size_t whole = 0;
  while (whole < iov.size() && iov[whole].iov_len <= bytes) bytes -= iov[whole++].iov_len;
  iov.erase(iov.begin(), iov.begin() + static_cast<std::ptrdiff_t>(whole));
  if (bytes == 0) return;
  iov.front().iov_base = static_cast<std::byte*>(iov.front().iov_base) + bytes;
  iov.front().iov_len -= bytes;
}

uint64_t length_of(const std::vector<iovec>& iov) {
  uint64_t bytes = 0;
  for (const iovec& part : iov) bytes += part.iov_len;
  return bytes;
}

}  // namespace

bool is_want_of_room(int error) {
  return error == ENOSPC || error == EDQUOT || error == EFBIG || error == ENOMEM ||
         error == EMFILE || error == ENFILE || error == ENOBUFS || error == EAGAIN ||
         error == EINTR;
}

bool is_want_of_room(Code code) {
  return code == Code::kNoSpace || code == Code::kBusy;
}

bool may_go_on(int64_t result) {
  return result >= 0 || is_want_of_room(static_cast<int>(-result));
}

Task<int64_t> write_patiently(const io::File& file, std::vector<iovec> iov, uint64_t offset,
                              bool durable, const Patience& patience) {
  bool waited = false;
  int64_t result = 0;
  for (uint64_t left = length_of(iov); left > 0 && result == 0;) {
    const int64_t wrote =
        co_await file.writev(iov.data(), static_cast<uint32_t>(iov.size()), offset, durable);
    if (wrote >= 0) {
      // A write that meets the end of the room may have done a part: the rest says why.
      const uint64_t part = static_cast<uint64_t>(wrote) / kBlockBytes * kBlockBytes;
      if (part == 0 || part > left) {
        result = -EIO;
        continue;
      }
      drop_front(iov, part);
      offset += part;
      left -= part;
      continue;
    }
    if (!is_want_of_room(static_cast<int>(-wrote))) {
      result = wrote;
      continue;
    }
    if (!waited && patience.waits)
      patience.waits(status_from_errno(static_cast<int>(-wrote), "write"));
    waited = true;
    io::CancelToken* token = patience.token ? patience.token() : nullptr;
    const bool stops = patience.goes_on && !patience.goes_on();
    int64_t slept = -ECANCELED;
    if (!stops) slept = co_await patience.reactor->sleep(patience.retry_after, token);
    if (slept != 0) result = -ENOSPC;
  }
  if (waited && patience.ended) patience.ended();
  co_return result;
}

}  // namespace cvol::store
