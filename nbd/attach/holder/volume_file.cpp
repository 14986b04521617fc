#include "nbd/attach/holder/volume_file.h"

#include <linux/falloc.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "volumed/base/assert.h"
#include "volumed/base/units.h"

namespace cvol::attach {

using nbd::client::Command;
using nbd::client::Payload;
using nbd::client::Request;

namespace {

constexpr fuse_ino_t kVolumeInode = 2;
constexpr char kFileName[] = "volume";
constexpr double kCacheSeconds = 3600;          // names and sizes change only by our own doing
constexpr std::size_t kCopyBytes = 64 * 1024;   // smaller writes are copied out of their buffer
constexpr uint64_t kMaxZeroBytes = 1ull << 30;  // of one NBD request without payload
constexpr unsigned kMaxBackground = 64;         // FUSE requests under way: 64 MiB at the most
// linux/fuse.h has it from 6.2 on; older kernels ignore the bit.
constexpr uint32_t kParallelDirectWrites = 1 << 6;

}  // namespace

// A FUSE request on its way through the pipeline. Zeroing may take several NBD requests.
struct VolumeFile::Operation {
  fuse_req_t request;
  uint64_t offset = 0;
  uint64_t left = 0;
};

ReceiveBuffers::~ReceiveBuffers() {
  for (void* memory : free_) std::free(memory);
}

void* ReceiveBuffers::take() {
  std::lock_guard lock(mutex_);
  if (free_.empty()) return nullptr;
  void* memory = free_.back();
  free_.pop_back();
  return memory;
}

void ReceiveBuffers::give_back(void* memory) {
  {
    std::lock_guard lock(mutex_);
    if (free_.size() < kKept) {
      free_.push_back(memory);
      return;
    }
  }
  std::free(memory);
}

VolumeFile::VolumeFile(std::string volume) : volume_(std::move(volume)) {}

VolumeFile::~VolumeFile() {
  if (session_ == nullptr) return;
  fuse_session_unmount(session_);
  fuse_session_destroy(session_);
}

bool VolumeFile::attributes(fuse_ino_t inode, struct stat& into) const {
  into = {};
  into.st_ino = inode;
  if (inode == FUSE_ROOT_ID) {
    into.st_mode = S_IFDIR | 0700;
    into.st_nlink = 2;
    return true;
  }
  if (inode != kVolumeInode) return false;
  into.st_mode = S_IFREG | 0600;
  into.st_nlink = 1;
  into.st_size = static_cast<off_t>(size_bytes_.load());
  into.st_blksize = kBlockBytes;
  into.st_blocks = into.st_size / 512;
  return true;
}

void VolumeFile::lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  fuse_entry_param entry{};
  if (parent != FUSE_ROOT_ID || std::strcmp(name, kFileName) != 0) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  entry.ino = kVolumeInode;
  entry.attr_timeout = kCacheSeconds;
  entry.entry_timeout = kCacheSeconds;
  attributes(kVolumeInode, entry.attr);
  fuse_reply_entry(request, &entry);
}

void VolumeFile::getattr(fuse_req_t request, fuse_ino_t inode) {
  struct stat attr;
  if (attributes(inode, attr)) {
    fuse_reply_attr(request, &attr, kCacheSeconds);
  } else {
    fuse_reply_err(request, ENOENT);
  }
}

// ftruncate() to a larger size is how volumed says that the volume has grown.
void VolumeFile::setattr(fuse_req_t request, fuse_ino_t inode, const struct stat& wanted,
                         int what) {
  if ((what & FUSE_SET_ATTR_SIZE) != 0) {
    uint64_t size = static_cast<uint64_t>(wanted.st_size);
    if (inode != kVolumeInode || size < size_bytes_ || size % kBlockBytes != 0 ||
        size > kMaxVolumeBytes) {
      fuse_reply_err(request, EINVAL);
      return;
    }
    size_bytes_ = size;
  }
  getattr(request, inode);
}

void VolumeFile::open(fuse_req_t request, fuse_ino_t inode, fuse_file_info* info) {
  if (inode != kVolumeInode) {
    fuse_reply_err(request, EISDIR);
    return;
  }
  // Answered in the kernel's own form, because libfuse 3.14 cannot ask for parallel writes.
  fuse_open_out out{};
  out.fh = info->fh;
  out.open_flags = FOPEN_DIRECT_IO | kParallelDirectWrites;
  ++open_count_;
  if (fuse_reply_buf(request, reinterpret_cast<const char*>(&out), sizeof out) != 0) --open_count_;
}

void VolumeFile::release(fuse_req_t request) {
  --open_count_;
  fuse_reply_err(request, 0);
}

void VolumeFile::read(fuse_req_t request, std::size_t size, off_t offset) {
  uint64_t start = static_cast<uint64_t>(offset);
  if (start >= size_bytes_ || size == 0) {
    fuse_reply_buf(request, nullptr, 0);
    return;
  }
  size = std::min<uint64_t>({size, size_bytes_ - start, kMaxTransferBytes});
  pipeline_->submit({Command::kRead, 0, 0, start, static_cast<uint32_t>(size)}, {},
                    new Operation{request});
}

Payload VolumeFile::make_payload(const char* data, std::size_t size) {
  auto bytes = reinterpret_cast<const std::byte*>(data);
  if (size <= kCopyBytes) {
    std::shared_ptr<void> copy(::operator new(size),
                               [](void* memory) { ::operator delete(memory); });
    std::memcpy(copy.get(), data, size);
    return {{static_cast<std::byte*>(copy.get()), size}, std::move(copy)};
  }
  CVOL_ASSERT(receiving_ != nullptr);
  void* buffer = std::exchange(receiving_, nullptr);
  auto home = buffers_;
  return {{bytes, size}, {buffer, [home](void* memory) { home->give_back(memory); }}};
}

void VolumeFile::write(fuse_req_t request, const char* data, std::size_t size, off_t offset) {
  uint64_t start = static_cast<uint64_t>(offset);
  if (size > kMaxTransferBytes || start > size_bytes_ || size > size_bytes_ - start) {
    fuse_reply_err(request, ENOSPC);
    return;
  }
  pipeline_->submit({Command::kWrite, 0, 0, start, static_cast<uint32_t>(size)},
                    make_payload(data, size), new Operation{request});
}

void VolumeFile::flush_volume(fuse_req_t request) {
  if ((pipeline_->export_info().flags & nbd::client::kFlagSendFlush) == 0) {
    fuse_reply_err(request, 0);
    return;
  }
  pipeline_->submit({Command::kFlush}, {}, new Operation{request});
}

// The loop driver asks for PUNCH_HOLE on discard and ZERO_RANGE on write-zeroes. Both want zeroes
// afterwards, which NBD promises for WRITE_ZEROES only. A thin volume frees the space in both
// cases (no NBD_CMD_FLAG_NO_HOLE): reserving it would fill the disk with zeroes at mkfs.
void VolumeFile::fallocate(fuse_req_t request, int mode, off_t offset, off_t length) {
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  constexpr int kZero = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
  if ((mode != kPunch && mode != kZero) ||
      (pipeline_->export_info().flags & nbd::client::kFlagSendWriteZeroes) == 0) {
    fuse_reply_err(request, EOPNOTSUPP);
    return;
  }
  uint64_t start = static_cast<uint64_t>(offset);
  if (start >= size_bytes_) {
    fuse_reply_err(request, 0);
    return;
  }
  uint64_t bytes = std::min<uint64_t>(static_cast<uint64_t>(length), size_bytes_ - start);
  auto* operation = new Operation{request, start, bytes};
  pipeline_->submit(next_zeroes(*operation), {}, operation);
}

Request VolumeFile::next_zeroes(Operation& operation) {
  const uint64_t bytes = std::min(operation.left, kMaxZeroBytes);
  const Request request{Command::kWriteZeroes, 0, 0, operation.offset,
                        static_cast<uint32_t>(bytes)};
  operation.offset += bytes;
  operation.left -= bytes;
  return request;
}

void VolumeFile::statfs(fuse_req_t request) {
  struct statvfs stat {};
  stat.f_bsize = kBlockBytes;  // the loop driver's discard granularity
  stat.f_frsize = kBlockBytes;
  stat.f_blocks = size_bytes_ / kBlockBytes;
  stat.f_namemax = 255;
  fuse_reply_statfs(request, &stat);
}

void VolumeFile::readdir(fuse_req_t request, std::size_t size, off_t offset) {
  char buffer[256];
  struct stat attr;
  if (offset > 0 || size < sizeof buffer) {
    fuse_reply_buf(request, nullptr, 0);
    return;
  }
  attributes(kVolumeInode, attr);
  std::size_t used = fuse_add_direntry(request, buffer, sizeof buffer, kFileName, &attr, 1);
  fuse_reply_buf(request, buffer, used);
}

void VolumeFile::answered(const Request& request, void* context, int error,
                          std::span<const std::byte> data) {
  auto* operation = static_cast<Operation*>(context);
  if (error != 0) {
    holder_log("WARN", "the server refused a request offset=" + std::to_string(request.offset) +
                           " length=" + std::to_string(request.length) +
                           " error=" + std::strerror(error));
    fuse_reply_err(operation->request, error);
  } else if (request.command == Command::kRead) {
    fuse_reply_buf(operation->request, reinterpret_cast<const char*>(data.data()), data.size());
  } else if (request.command == Command::kWrite) {
    fuse_reply_write(operation->request, request.length);
  } else if (operation->left > 0) {
    pipeline_->submit_from_answer(next_zeroes(*operation), operation);
    return;
  } else {
    fuse_reply_err(operation->request, 0);
  }
  delete operation;
}

void VolumeFile::connection_changed(const std::string& text) {
  holder_log("INFO", text);
}

void VolumeFile::want_stop() {
  stop_wanted_ = true;
  if (open_count_ == 0) {
    umount2(mount_point_.c_str(), MNT_DETACH);  // run() sees the end of its session
  } else {
    holder_log("INFO", "asked to stop while the device is in use; stops when it is detached");
  }
}

bool VolumeFile::finished() const {
  return fuse_session_exited(session_) != 0 || (stop_wanted_ && open_count_ == 0);
}

int VolumeFile::run() {
  while (!finished()) {
    fuse_buf buffer{};
    buffer.mem = buffers_->take();
    int got = fuse_session_receive_buf(session_, &buffer);
    receiving_ = buffer.mem;
    if (got > 0) fuse_session_process_buf(session_, &buffer);
    if (receiving_ != nullptr) buffers_->give_back(std::exchange(receiving_, nullptr));
    if (got == -EINTR || got > 0) continue;
    return got < 0 ? -got : 0;  // 0: unmounted
  }
  return 0;
}

namespace {

VolumeFile& self(fuse_req_t request) {
  return *static_cast<VolumeFile*>(fuse_req_userdata(request));
}

void init_connection(void*, fuse_conn_info* connection) {
  connection->want |= connection->capable & FUSE_CAP_ASYNC_DIO;
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ |
                                             FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
  connection->max_write = kMaxTransferBytes;
  connection->max_read = kMaxTransferBytes;
  connection->max_readahead = 0;
  connection->max_background = kMaxBackground;
  connection->congestion_threshold = kMaxBackground;
}

fuse_lowlevel_ops make_operations() {
  fuse_lowlevel_ops ops{};
  ops.init = init_connection;
  ops.lookup = [](fuse_req_t r, fuse_ino_t parent, const char* name) {
    self(r).lookup(r, parent, name);
  };
  ops.getattr = [](fuse_req_t r, fuse_ino_t inode, fuse_file_info*) { self(r).getattr(r, inode); };
  ops.setattr = [](fuse_req_t r, fuse_ino_t inode, struct stat* wanted, int what, fuse_file_info*) {
    self(r).setattr(r, inode, *wanted, what);
  };
  ops.open = [](fuse_req_t r, fuse_ino_t inode, fuse_file_info* info) {
    self(r).open(r, inode, info);
  };
  ops.release = [](fuse_req_t r, fuse_ino_t, fuse_file_info*) { self(r).release(r); };
  ops.read = [](fuse_req_t r, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info*) {
    self(r).read(r, size, offset);
  };
  ops.write = [](fuse_req_t r, fuse_ino_t, const char* data, std::size_t size, off_t offset,
                 fuse_file_info*) { self(r).write(r, data, size, offset); };
  // close() of the file flushes nothing: what was written is at the server already.
  ops.flush = [](fuse_req_t r, fuse_ino_t, fuse_file_info*) { fuse_reply_err(r, 0); };
  ops.fsync = [](fuse_req_t r, fuse_ino_t, int, fuse_file_info*) { self(r).flush_volume(r); };
  ops.fallocate = [](fuse_req_t r, fuse_ino_t, int mode, off_t offset, off_t length,
                     fuse_file_info*) { self(r).fallocate(r, mode, offset, length); };
  ops.statfs = [](fuse_req_t r, fuse_ino_t) { self(r).statfs(r); };
  ops.readdir = [](fuse_req_t r, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info*) {
    self(r).readdir(r, size, offset);
  };
  return ops;
}

}  // namespace

Status VolumeFile::mount(const std::string& mount_point, nbd::client::Pipeline& pipeline) {
  mount_point_ = mount_point;
  pipeline_ = &pipeline;
  size_bytes_ = pipeline.export_info().size_bytes;
  std::string options = "fsname=cvol:" + volume_ +
                        ",subtype=cvol,allow_other,max_read=" + std::to_string(kMaxTransferBytes);
  const char* words[] = {"cvol-holder", "-o", options.c_str()};
  fuse_args args = FUSE_ARGS_INIT(3, const_cast<char**>(words));
  static const fuse_lowlevel_ops kOperations = make_operations();
  session_ = fuse_session_new(&args, &kOperations, sizeof kOperations, this);
  fuse_opt_free_args(&args);
  if (session_ == nullptr) return Status(Code::kInternal, "libfuse made no session");
  if (fuse_session_mount(session_, mount_point.c_str()) != 0) {
    return Status(Code::kIo, "mount FUSE at " + mount_point + " failed; is /dev/fuse there?");
  }
  return Status::ok();
}

}  // namespace cvol::attach
