// Scrub and verify of disks: begun by the API, watched by asking again.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <thread>

#include "volumed/base/units.h"
#include "volumed/cli/commands.h"
#include "volumed/cli/output.h"

namespace cvol::cli {
namespace {

using namespace std::chrono_literals;
constexpr auto kFirstLook = 50ms;
constexpr auto kMostBetweenLooks = 1000ms;
constexpr int kMostDamageShown = 20;

std::string ago(int64_t seconds) {
  const auto plural = [](int64_t count, const char* one, const char* many) {
    return std::to_string(count) + " " + (count == 1 ? one : many) + " ago";
  };
  if (seconds < 60) return "just now";
  if (seconds < 3600) return std::to_string(seconds / 60) + " min ago";
  if (seconds < 86400) return plural(seconds / 3600, "hour", "hours");
  return plural(seconds / 86400, "day", "days");
}

std::string count_damaged(uint64_t blocks) {
  return blocks == 0 ? "no damage" : std::to_string(blocks) + " damaged";
}

Result<v1::Disk> look(api::ApiClient& api, const std::string& id) {
  auto disks = api.list_disks();
  if (!disks) return disks.status();
  for (const v1::Disk& disk : disks->disks()) {
    if (disk.id() == id) return disk;
  }
  return Status(Code::kNotFound, "disk " + id + " is gone");
}

// Until nothing runs on the disk any more. Progress goes to a terminal only.
Result<v1::Disk> watch(api::ApiClient& api, v1::Disk disk) {
  const bool terminal = ::isatty(STDERR_FILENO) != 0;
  auto pause = kFirstLook;
  while (disk.scrub().state() == "running") {
    if (terminal) {
      std::cerr << "\r" << disk.path() << ": " << disk.scrub().progress_percent() << " %, "
                << format_size(disk.scrub().bytes()) << " read, "
                << count_damaged(disk.scrub().damaged_blocks()) << "   " << std::flush;
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(kMostBetweenLooks, pause * 2);
    auto next = look(api, disk.id());
    if (!next) return next.status();
    disk = std::move(*next);
  }
  if (terminal) std::cerr << "\r\033[K";
  return disk;
}

void show_damage(const v1::Disk& disk, std::ostream& out) {
  const auto& damage = disk.scrub().damage();
  for (int i = 0; i < damage.size() && i < kMostDamageShown; ++i) {
    const v1::Damage& found = damage[i];
    if (found.file() == "table") {
      out << "  the chunk table\n";
      continue;
    }
    out << "  volume " << found.volume() << ", offset " << found.offset() << " (file '"
        << found.file() << "', block " << found.file_block() << ")"
        << (found.unreadable() ? ", unreadable" : "") << "\n";
  }
  if (damage.size() > kMostDamageShown) out << "  and more; 'cvol events' has them\n";
}

// What came of it: ok if everything was read and is sound.
Status judge(const v1::Disk& disk, const char* what) {
  const v1::Scrub& scrub = disk.scrub();
  if (!scrub.outcome().empty())
    return Status(Code::kFailedPrecondition,
                  std::string(what) + " of disk " + disk.path() + ": " + scrub.outcome());
  if (scrub.state() == "stopped")
    return Status(Code::kCancelled, std::string(what) + " of disk " + disk.path() +
                                        " was stopped at " +
                                        std::to_string(scrub.progress_percent()) + " %");
  if (scrub.completed_damaged_blocks() != 0)
    return Status(Code::kDamaged, std::to_string(scrub.completed_damaged_blocks()) +
                                      " blocks of disk " + disk.path() +
                                      " are damaged: reads of them fail, writing them mends them; "
                                      "see 'cvol events'");
  return Status::ok();
}

Status finish(const v1::Disk& disk, const char* what, const Settings& settings, std::ostream& out) {
  const Status verdict = judge(disk, what);
  if (settings.json) {
    out << to_json(disk).dump(2) << "\n";
    return verdict;
  }
  const v1::Scrub& scrub = disk.scrub();
  if (!verdict) {
    show_damage(disk, out);
    return verdict;
  }
  out << what << " of disk " << disk.path() << ": " << format_size(scrub.completed_bytes())
      << " read, no damage";
  if (scrub.verify() && disk.state() == "ok") out << "; the disk is in service";
  out << ".\n";
  return Status::ok();
}

Status show(const v1::Disk& disk, const std::string& sentence, const Settings& settings,
            std::ostream& out) {
  if (settings.json) {
    out << to_json(disk).dump(2) << "\n";
  } else {
    out << sentence << "\n";
  }
  return Status::ok();
}

// A path as this shell means it, or digits of an id.
std::string disk_name(const std::string& text) {
  return text.find('/') == std::string::npos
             ? text
             : std::filesystem::absolute(text).lexically_normal().string();
}

}  // namespace

std::string describe_scrub(const v1::Scrub& scrub, int64_t now) {
  const std::string percent = std::to_string(scrub.progress_percent()) + " %";
  if (scrub.state() == "running") return (scrub.verify() ? "verify " : "running ") + percent;
  if (scrub.state() == "stopped") return "stopped at " + percent;
  if (!scrub.has_completed()) return "never";
  const uint64_t damaged = scrub.completed_damaged_blocks();
  return ago(now - scrub.completed().seconds()) +
         (damaged == 0 ? ", clean" : ", " + std::to_string(damaged) + " damaged");
}

Status scrub_disk(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  if (settings.stop) {
    if (settings.wait || !settings.rate.empty())
      return Status(Code::kInvalidArgument, "--stop goes with neither --wait nor --rate");
    v1::StopScrubRequest request;
    request.set_disk(disk_name(settings.name));
    auto stopped = api.stop_scrub(request);
    if (!stopped) return stopped.status();
    return show(stopped->disk(), "No scrub of disk " + stopped->disk().path() + " runs now.",
                settings, out);
  }
  v1::ScrubDiskRequest request;
  request.set_disk(disk_name(settings.name));
  if (!settings.rate.empty()) {
    auto rate = parse_rate(settings.rate);
    if (!rate) return rate.status();
    request.set_rate(*rate);
  }
  auto begun = api.scrub_disk(request);
  if (!begun) return begun.status();
  if (!settings.wait)
    return show(
        begun->disk(),
        "Disk " + begun->disk().path() + " is being scrubbed; 'cvol disk ls' shows how far it is.",
        settings, out);
  auto done = watch(api, begun->disk());
  if (!done) return done.status();
  return finish(*done, "Scrub", settings, out);
}

Status move_disk(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::MoveDiskRequest request;
  request.set_disk(disk_name(settings.name));
  request.set_path(std::filesystem::absolute(settings.path).lexically_normal().string());
  request.set_accept_data_loss(settings.accept_data_loss);
  auto moved = api.move_disk(request);
  if (!moved) return moved.status();
  return show(moved->disk(),
              "Disk " + moved->disk().id() + " is at " + moved->disk().path() + " now.", settings,
              out);
}

Status verify_disk(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::VerifyDiskRequest request;
  request.set_disk(disk_name(settings.name));
  request.set_accept_damage(settings.accept_damage);
  auto begun = api.verify_disk(request);
  if (!begun) return begun.status();
  if (settings.no_wait)
    return show(
        begun->disk(),
        "Disk " + begun->disk().path() + " is being verified; 'cvol disk ls' shows how far it is.",
        settings, out);
  auto done = watch(api, begun->disk());
  if (!done) return done.status();
  return finish(*done, "Verify", settings, out);
}

}  // namespace cvol::cli
