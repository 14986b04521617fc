#include "volumed/io/file_space.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>

#include "volumed/base/units.h"

namespace cvol::io {
namespace {

constexpr uint32_t kExtentsAtOnce = 256;
constexpr uint64_t kStepBytes = 256 * kMiB;  // XFS wants as much free as one call may need

struct alignas(fiemap) ExtentPage {
  std::array<std::byte, sizeof(fiemap) + kExtentsAtOnce * sizeof(fiemap_extent)> bytes;
};

Status allocate_range(int handle, int mode, uint64_t from, uint64_t to) {
  while (from < to) {
    const uint64_t bytes = std::min(to - from, kStepBytes);
    if (fallocate(handle, mode, static_cast<off_t>(from), static_cast<off_t>(bytes)) != 0) {
      if (errno == EINTR) continue;
      if (errno == EOPNOTSUPP || errno == ENOSYS)
        return Status(Code::kUnsupported,
                      "the file system cannot reserve space; use ext4 or xfs for disks");
      return status_from_errno(errno, "reserve space");
    }
    from += bytes;
  }
  return Status::ok();
}

// Nothing but a wish on file systems without it: their writes wait for room if need be.
Status unshare_range(int handle, uint64_t from, uint64_t to) {
  const Status done = allocate_range(handle, FALLOC_FL_UNSHARE_RANGE, from, to);
  return done.code() == Code::kUnsupported ? Status::ok() : done;
}

void add_range(std::vector<FileRange>& ranges, FileRange range) {
  if (!ranges.empty() && ranges.back().end == range.begin) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

}  // namespace

Status reserve_space(int handle, uint64_t bytes) {
  struct stat info {};
  if (fstat(handle, &info) != 0) return status_from_errno(errno, "read the size of a file");
  return allocate_range(handle, 0, static_cast<uint64_t>(info.st_size), bytes);
}

Result<SpaceMap> map_space(int handle, FileRange range) {
  ExtentPage page;
  fiemap* const map = reinterpret_cast<fiemap*>(page.bytes.data());
  SpaceMap found;
  uint64_t at = range.begin;
  bool last = false;
  while (at < range.end && !last) {
    page.bytes.fill(std::byte{0});
    map->fm_start = at;
    map->fm_length = range.end - at;
    map->fm_flags = FIEMAP_FLAG_SYNC;
    map->fm_extent_count = kExtentsAtOnce;
    if (ioctl(handle, FS_IOC_FIEMAP, map) != 0) {
      if (errno == EINTR) continue;
      if (errno == EOPNOTSUPP || errno == ENOTTY || errno == EBADR) return SpaceMap{};
      return status_from_errno(errno, "read the extents of a file");
    }
    last = map->fm_mapped_extents == 0;
    for (uint32_t i = 0; i < map->fm_mapped_extents; ++i) {
      const fiemap_extent& extent = map->fm_extents[i];
      const uint64_t begin = std::clamp<uint64_t>(extent.fe_logical, at, range.end);
      const uint64_t end =
          std::clamp<uint64_t>(extent.fe_logical + extent.fe_length, begin, range.end);
      if (at < begin) add_range(found.holes, {at, begin});
      if ((extent.fe_flags & FIEMAP_EXTENT_SHARED) != 0 && begin < end)
        add_range(found.shared, {begin, end});
      at = end;
      last = last || (extent.fe_flags & FIEMAP_EXTENT_LAST) != 0;
    }
  }
  if (at < range.end) add_range(found.holes, {at, range.end});
  found.told = true;
  return found;
}

Result<uint64_t> own_space(int handle, FileRange range) {
  Result<SpaceMap> map = map_space(handle, range);
  if (!map) return map.status();
  uint64_t changed = 0;
  for (const FileRange& hole : map->holes) {
    CVOL_TRY(allocate_range(handle, 0, hole.begin, hole.end));
    changed += hole.end - hole.begin;
  }
  for (const FileRange& shared : map->shared) {
    CVOL_TRY(unshare_range(handle, shared.begin, shared.end));
    changed += shared.end - shared.begin;
  }
  return changed;
}

Status punch_space(int handle, FileRange range) {
  return allocate_range(handle, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range.begin, range.end);
}

}  // namespace cvol::io
