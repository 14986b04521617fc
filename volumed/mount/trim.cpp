#include "volumed/mount/trim.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "volumed/base/units.h"

namespace cvol::mount {

Result<uint64_t> trim(const std::string& target, uint64_t offset, uint64_t length) {
  const int folder = open(target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return status_from_errno(errno, "open " + target);
  fstrim_range range{};
  range.start = offset;
  range.len = length;
  range.minlen = kChunkBytes;  // less frees no chunk
  const int failed = ioctl(folder, FITRIM, &range);
  const int error = errno;
  close(folder);
  if (failed == 0) return uint64_t{range.len};
  if (error == EINVAL && offset > 0) return uint64_t{0};
  if (error == EOPNOTSUPP || error == ENOTTY)
    return Status(Code::kUnsupported, "the file system at " + target + " cannot be trimmed");
  return status_from_errno(error, "trim " + target);
}

Result<uint64_t> decode_trimmed(const std::string& text) {
  uint64_t bytes = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), bytes);
  if (text.empty() || error != std::errc{} || stop != text.data() + text.size())
    return Status(Code::kInternal, "'" + text + "' is no number of bytes");
  return bytes;
}

}  // namespace cvol::mount
