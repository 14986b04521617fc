// volumed's side of the FUSE + loop method. A FUSE file or a loop device of ours answers only while
// volumed serves, so volumed asks /proc and /sys itself and leaves all else to cvol-device.
#include <filesystem>

#include "nbd/attach/backend.h"
#include "volumed/base/log.h"
#include "volumed/mount/device_program.h"

namespace cvol::attach {
namespace {

class FuseBackend : public DeviceBackend {
 public:
  explicit FuseBackend(const AttachOptions& options)
      : options_(options),
        program_(step_lock_dir(options)),
        local_(make_local_fuse_backend(options)) {}

  const char* method() const override { return "fuse"; }
  Status check_support() override { return local_->check_support(); }
  Status attach(DeviceRecord& record) override;
  Status detach(const DeviceRecord& record) override { return step("detach", record).status(); }
  Status resize(const DeviceRecord& record, uint64_t size_bytes) override;
  void cut(const DeviceRecord& record) override { local_->cut(record); }
  bool is_alive(const DeviceRecord& record) override { return local_->is_alive(record); }
  Status revive(DeviceRecord&) override { return Status::ok(); }  // the holder does it by itself
  void clean_up(const DeviceRecord& record) override;
  bool find_living(DeviceRecord& record) override { return local_->find_living(record); }
  void clean_orphans(const std::function<bool(const std::string&)>& is_known) override;

 private:
  Result<std::string> step(const std::string& name, const DeviceRecord& record) {
    return program_.run(record.volume, {"fuse-" + name, options_.run_dir, options_.nbd_socket,
                                        options_.holder_binary, encode_record(record)});
  }

  const AttachOptions options_;
  const mount::DeviceProgram program_;
  const std::unique_ptr<DeviceBackend> local_;
};

Status FuseBackend::attach(DeviceRecord& record) {
  Result<std::string> answer = step("attach", record);
  if (!answer) return answer.status();
  Result<DeviceRecord> made = decode_record(*answer);
  if (!made) return made.status();
  record = std::move(*made);
  return Status::ok();
}

Status FuseBackend::resize(const DeviceRecord& record, uint64_t size_bytes) {
  DeviceRecord grown = record;
  grown.size_bytes = size_bytes;
  return step("resize", grown).status();
}

void FuseBackend::clean_up(const DeviceRecord& record) {
  Result<std::string> done = step("clean-up", record);
  if (done) return;
  log::warning("attach", "what is left of a device stays until the volume is attached again",
               {{"volume", record.volume}, {"reason", done.message()}});
}

// The folders of run_dir are named after volumes. They are listed, not looked into.
void FuseBackend::clean_orphans(const std::function<bool(const std::string&)>& is_known) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(options_.run_dir + "/attach", error)) {
    std::string name = entry.path().filename();
    if (!is_known(name)) names.push_back(name);
  }
  for (const std::string& name : names) {
    log::warning("attach", "cleaning up a device without a record", {{"volume", name}});
    DeviceRecord record;
    record.volume = name;
    record.method = method();
    record.instance = options_.instance;
    clean_up(record);
  }
}

}  // namespace

std::unique_ptr<DeviceBackend> make_fuse_backend(const AttachOptions& options) {
  return std::make_unique<FuseBackend>(options);
}

}  // namespace cvol::attach
