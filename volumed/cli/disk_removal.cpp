// Taking disks out of the pool, and exchanging them.
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <iostream>
#include <optional>
#include <thread>

#include "volumed/cli/commands.h"
#include "volumed/cli/output.h"

namespace cvol::cli {
namespace {

using namespace std::chrono_literals;
constexpr auto kBetweenLooks = 500ms;

// A path as this shell means it, or digits of an id.
std::string disk_name(const std::string& text) {
  return text.find('/') == std::string::npos
             ? text
             : std::filesystem::absolute(text).lexically_normal().string();
}

// nullopt: it is no part of the pool any more.
Result<std::optional<v1::Disk>> look(api::ApiClient& api, const std::string& id) {
  auto disks = api.list_disks();
  if (!disks) return disks.status();
  for (const v1::Disk& disk : disks->disks()) {
    if (disk.id() == id) return std::optional<v1::Disk>(disk);
  }
  return std::optional<v1::Disk>();
}

Status wait_until_gone(api::ApiClient& api, const v1::Disk& disk) {
  const bool terminal = ::isatty(STDERR_FILENO) != 0;
  while (true) {
    auto now = look(api, disk.id());
    if (!now) return now.status();
    if (!now->has_value()) break;
    if ((*now)->state() != "leaving")
      return Status(Code::kCancelled, "disk " + disk.path() + " stays in the pool after all");
    if (terminal)
      std::cerr << "\r" << disk.path() << ": " << (*now)->replicas() << " copies left   "
                << std::flush;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  if (terminal) std::cerr << "\r\033[K";
  return Status::ok();
}

Status answer(api::ApiClient& api, const Settings& settings, std::ostream& out,
              const v1::Disk& disk) {
  bool gone = false;
  if (settings.wait && !settings.cancel) {
    if (Status waited = wait_until_gone(api, disk); !waited) return waited;
    gone = true;
  } else if (auto now = look(api, disk.id()); now) {
    gone = !now->has_value();
  }
  if (settings.json) {
    out << to_json(disk).dump(2) << "\n";
  } else if (settings.cancel) {
    out << "Disk " << disk.path() << " stays in the pool.\n";
  } else if (gone) {
    out << "Disk " << disk.path()
        << " is no part of the pool any more and is closed; it can be unmounted.\n";
  } else {
    out << "Disk " << disk.path()
        << " is leaving: its copies are made elsewhere first. 'cvol disk ls' shows it until it is "
           "empty.\n";
  }
  return Status::ok();
}

}  // namespace

Status remove_disk(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::RemoveDiskRequest request;
  request.set_disk(disk_name(settings.name));
  request.set_in_place(settings.in_place);
  request.set_cancel(settings.cancel);
  auto begun = api.remove_disk(request);
  if (!begun) return begun.status();
  return answer(api, settings, out, begun->disk());
}

// The new one first: the old one's copies need a place.
Status replace_disk(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  Settings quiet = settings;
  quiet.json = false;
  if (Status added = add_disk(api, quiet, settings.json ? std::cerr : out); !added) return added;
  const Status removed = remove_disk(api, settings, out);
  if (!removed)
    std::cerr << "The new disk " << settings.path << " is in the pool all the same; 'cvol disk rm "
              << settings.path << "' takes it out again\n";
  return removed;
}

}  // namespace cvol::cli
