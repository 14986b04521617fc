// LocalPrimary: the primary of a volume with one replica, on a disk of this shard.
//
// It numbers writes, keeps overlapping ones in order, makes unaligned ones atomic by reading and
// writing whole blocks under their lock, and counts the volume's traffic. Aligned requests in
// aligned memory go to the disk engine as they are: no copy, and no allocation but the frame.
//
// Threading: the shard's thread, except the destructor (any thread, nothing under way) and size().
// Durability: class `durable`: a write that was answered is on stable storage, so FUA is free and
// flush has nothing left to do.
// Ownership: engine and bounce pool belong to the shard and outlive the device.
#pragma once

#include <atomic>
#include <memory>

#include "volumed/base/block_device.h"
#include "volumed/base/metrics.h"
#include "volumed/io/range_lock.h"
#include "volumed/store/disk_engine.h"
#include "volumed/volume/bounce_pool.h"

namespace cvol::volume {

class LocalPrimary final : public BlockDevice {
 public:
  struct Parts {
    io::Reactor* reactor = nullptr;
    store::DiskEngine* engine = nullptr;
    BouncePool* bounce = nullptr;
    std::shared_ptr<VolumeMetrics> metrics;
    store::ReplicaNumber replica = 0;
    uint64_t epoch = 0;
    uint64_t last_seq = 0;  // highest seq that was used
    uint64_t size = 0;      // bytes, a multiple of 4 KiB
  };

  explicit LocalPrimary(Parts parts);

  uint64_t size() const override { return size_.load(std::memory_order_relaxed); }
  Task<Status> read(uint64_t offset, std::span<std::byte> into) override;
  Task<Status> write(uint64_t offset, std::span<const std::byte> data, bool fua) override;
  Task<Status> flush() override;
  Task<Status> write_zeroes(uint64_t offset, uint64_t length, bool keep_allocated,
                            bool fua) override;
  Task<Status> trim(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<std::vector<Extent>>> block_status(uint64_t offset, uint64_t length) override;

  // The replica has this size now; never smaller than before.
  void grow(uint64_t size);
  // The volume's record has a new epoch; writes from now on carry it.
  void set_epoch(uint64_t epoch);

 private:
  Task<Status> read_bounced(uint64_t offset, std::span<std::byte> into);
  Task<Status> write_bounced(uint64_t offset, std::span<const std::byte> data);
  Task<Status> zero_range(uint64_t offset, uint64_t length, bool keep_allocated);
  // One run of whole blocks in `blocks` gets `data` laid over it at `skip` and is written.
  Task<Status> overlay_and_write(uint64_t begin, std::span<std::byte> blocks, uint64_t skip,
                                 uint64_t length, const std::byte* data);
  void check_range(uint64_t offset, uint64_t length) const;

  Parts parts_;
  std::atomic<uint64_t> size_;
  uint64_t seq_;
  io::RangeLock lock_;
};

}  // namespace cvol::volume
