// The file system of one file that cvol-holder serves: /volume, as large as the volume, whose reads
// and writes go to the NBD pipeline. Nothing is cached here, in neither direction.
//
// Threading: run() on the thread that made it; answers come on the pipeline's receive thread.
// Ownership: the memory of a large write is the buffer that it came in from /dev/fuse: it moves
// to the pipeline without a copy and comes back when the write is answered.
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "nbd/client/pipeline.h"

namespace cvol::attach {

constexpr uint32_t kMaxTransferBytes = 1 << 20;  // FUSE: 256 pages, the kernel's limit

// One line on stderr, in the form of volumed's log.
void holder_log(const char* level, const std::string& text);

// Receive buffers of /dev/fuse. A few are kept, so that requests move when memory is short.
class ReceiveBuffers {
 public:
  ~ReceiveBuffers();
  void* take();  // nullptr: none kept, libfuse allocates
  void give_back(void* memory);

 private:
  static constexpr std::size_t kKept = 3;
  std::mutex mutex_;
  std::vector<void*> free_;
};

class VolumeFile : public nbd::client::PipelineEvents {
 public:
  explicit VolumeFile(std::string volume);
  ~VolumeFile() override;

  // Mounts at `mount_point`. The size is that of the pipeline's export.
  Status mount(const std::string& mount_point, nbd::client::Pipeline& pipeline);
  // Serves until the file system is unmounted, or, after want_stop(), nobody has the file open.
  int run();
  // SIGTERM: at once if nobody has the file open, else with the last close.
  void want_stop();

  void answered(const nbd::client::Request& request, void* context, int error,
                std::span<const std::byte> data) override;
  void connection_changed(const std::string& text) override;

  // The FUSE requests.
  void lookup(fuse_req_t request, fuse_ino_t parent, const char* name);
  void getattr(fuse_req_t request, fuse_ino_t inode);
  void setattr(fuse_req_t request, fuse_ino_t inode, const struct stat& wanted, int what);
  void open(fuse_req_t request, fuse_ino_t inode, fuse_file_info* info);
  void release(fuse_req_t request);
  void read(fuse_req_t request, std::size_t size, off_t offset);
  void write(fuse_req_t request, const char* data, std::size_t size, off_t offset);
  void flush_volume(fuse_req_t request);
  void fallocate(fuse_req_t request, int mode, off_t offset, off_t length);
  void statfs(fuse_req_t request);
  void readdir(fuse_req_t request, std::size_t size, off_t offset);

 private:
  struct Operation;
  bool attributes(fuse_ino_t inode, struct stat& into) const;
  static nbd::client::Request next_zeroes(Operation& operation);
  nbd::client::Payload make_payload(const char* data, std::size_t size);
  bool finished() const;

  const std::string volume_;
  std::string mount_point_;
  nbd::client::Pipeline* pipeline_ = nullptr;
  std::shared_ptr<ReceiveBuffers> buffers_ = std::make_shared<ReceiveBuffers>();
  fuse_session* session_ = nullptr;
  void* receiving_ = nullptr;  // the buffer of the request being handled; nullptr: it was taken
  std::atomic<uint64_t> size_bytes_{0};
  std::atomic<int> open_count_{0};
  std::atomic<bool> stop_wanted_{false};
};

}  // namespace cvol::attach
