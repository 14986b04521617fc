// What may be made into a file system, and what never: the rules of VolumeRecord.format_state.
//
//   NONE, BLOCK_DEVICE, STARTED: a file system is made only while nothing at all is stored. Only
//     NONE becomes MAKING.
//   MAKING: what is stored is left of a mkfs of cvol's own, since nobody has opened the volume for
//     writing or mounted it after that began; it is made again from the beginning.
//   DONE: never again. Set before the first mount, so that MAKING and a user's file never meet.
#include "volumed/base/log.h"
#include "volumed/base/units.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/stored_data.h"

namespace cvol::volume {
namespace {

// Clients of the volume other than cvol's own devices; they share it, and the export with them.
struct ForeignClients {
  std::shared_ptr<nbd::Export> shown;
};

}  // namespace

// Somebody is about to write to the volume as to a block device. On stable storage before the first
// write is admitted; later calls cost nothing.
Status VolumeManager::note_block_use(Hosted& hosted) {
  const auto is_noted = [](v1::FormatState state) {
    return state == v1::FORMAT_STATE_DONE || state == v1::FORMAT_STATE_BLOCK_DEVICE;
  };
  if (is_noted(record_of(hosted).format_state())) return Status::ok();
  return update(hosted, [&](v1::VolumeRecord& next) {
    if (!is_noted(next.format_state())) next.set_format_state(v1::FORMAT_STATE_BLOCK_DEVICE);
  });
}

// For a client that is no device of cvol's own.
Result<std::shared_ptr<nbd::Export>> VolumeManager::open_for_client(const std::string& name) {
  auto shown = open_now(name);
  if (!shown || (*shown)->read_only) return shown;
  auto hosted = require(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::shared_ptr<ForeignClients> clients;
  {
    std::lock_guard opening(volume.opening);
    if (volume.formatting)
      return Status(Code::kBusy,
                    "the file system of volume '" + name + "' is being made; try again later");
    clients = std::static_pointer_cast<ForeignClients>(volume.foreign_clients.lock());
    if (!clients || clients->shown != *shown)
      clients = std::make_shared<ForeignClients>(ForeignClients{*shown});
    volume.foreign_clients = clients;
  }
  CVOL_TRY(note_block_use(volume));
  nbd::Export* const target = (*shown).get();
  return std::shared_ptr<nbd::Export>(std::move(clients), target);
}

// The caller holds hosted.operation.
Result<bool> VolumeManager::is_all_empty(Hosted& hosted) {
  auto shown = open_now(hosted.name);
  if (!shown) return shown.status();
  io::Shard* shard = nullptr;
  {
    std::lock_guard lock(mutex_);
    shard = cluster_ ? hosted.gateway_shard : hosted.disk->shard;
  }
  nbd::Export& target = **shown;
  return shard->run<Result<bool>>([&] { return stores_nothing(*target.reactor, *target.device); });
}

// No client may write to what is being looked at and formatted. The caller holds hosted.operation.
Status VolumeManager::begin_formatting(Hosted& hosted) {
  std::lock_guard opening(hosted.opening);
  if (!hosted.foreign_clients.expired())
    return Status(Code::kFailedPrecondition,
                  "an NBD client has the volume open for writing; no file system is made until it "
                  "has disconnected");
  hosted.formatting = true;
  return Status::ok();
}

void VolumeManager::end_formatting(Hosted& hosted) {
  std::lock_guard opening(hosted.opening);
  hosted.formatting = false;
}

// Makes the file system if nothing is stored in the volume. That mkfs may have begun is on stable
// storage before it does. The caller holds hosted.operation.
Status VolumeManager::prepare_file_system(Hosted& hosted, const std::string& device,
                                          const std::vector<std::string>& mkfs_options) {
  const v1::VolumeRecord record = record_of(hosted);
  if (record.format_state() == v1::FORMAT_STATE_DONE) return Status::ok();
  auto found = file_systems_->probe(hosted.name, device);
  if (!found) return found.status();
  const bool cut_off = record.format_state() == v1::FORMAT_STATE_MAKING;
  if (!cut_off && *found == record.fs()) return note_formatted(hosted);  // made by somebody else
  if (!found->empty() && *found != record.fs())
    return Status(Code::kFailedPrecondition,
                  "the volume holds " + *found + ", and its file system should be " + record.fs() +
                      "; cvol never overwrites data: use it with 'cvol volume attach', or wipe "
                      "it there yourself");
  CVOL_TRY(begin_formatting(hosted));
  const Status made = format(hosted, device, mkfs_options, cut_off);
  end_formatting(hosted);
  return made;
}

Status VolumeManager::format(Hosted& hosted, const std::string& device,
                             const std::vector<std::string>& mkfs_options, bool cut_off) {
  auto empty = is_all_empty(hosted);
  if (!empty) return empty.status().with_context("see whether the volume is empty");
  // Asked again: whoever noted its use in between has been let in before.
  const v1::VolumeRecord record = record_of(hosted);
  cut_off = cut_off && record.format_state() == v1::FORMAT_STATE_MAKING;
  if (!*empty && !cut_off) {
    std::string text = "data is stored in the volume, and no file system " + record.fs();
    if (record.format_state() == v1::FORMAT_STATE_STARTED)
      text +=
          " (perhaps what an interrupted mkfs has left: if nothing was ever stored on this "
          "volume, remove it and create it again)";
    return Status(Code::kFailedPrecondition,
                  text +
                      "; cvol never overwrites data: use it with 'cvol volume attach', or "
                      "discard it there yourself ('blkdiscard DEVICE') and mount it again");
  }
  // One that was a block device may still be attached for its user: what is found there after a
  // mkfs that was cut off may be that user's.
  if (record.format_state() == v1::FORMAT_STATE_NONE)
    CVOL_TRY(update(
        hosted, [](v1::VolumeRecord& next) { next.set_format_state(v1::FORMAT_STATE_MAKING); }));
  if (!*empty) {
    log::warning("volume", "a mkfs was cut off; the file system is made again",
                 {{"volume", hosted.name}});
    CVOL_TRY(file_systems_->make_anew(hosted.name, device, record.fs(), mkfs_options));
  } else {
    CVOL_TRY(file_systems_->make(hosted.name, device, record.fs(), mkfs_options));
  }
  return note_formatted(hosted);
}

// Before anything is mounted: what is there is the users' from now on. Its size is not known: the
// volume may have grown since its device came.
Status VolumeManager::note_formatted(Hosted& hosted) {
  return update(hosted, [](v1::VolumeRecord& next) {
    next.set_format_state(v1::FORMAT_STATE_DONE);
    next.set_fs_size_bytes(0);
  });
}

}  // namespace cvol::volume
