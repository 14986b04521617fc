#include "csi/operations.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "volumed/base/log.h"

namespace cvol::csi {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kMostUnderWay = 128;
constexpr std::chrono::milliseconds kAnswerTime{100};  // before the deadline, for the answer
constexpr std::chrono::hours kLongest{1};              // that a call without a deadline waits

void write_line(const char* call, const std::string& volume, const grpc::Status& status,
                Clock::time_point begin) {
  const auto took =
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count();
  if (status.ok()) {
    log::info("csi", "done", {{"call", call}, {"volume", volume}, {"ms", took}});
    return;
  }
  log::warning("csi", "failed",
               {{"call", call},
                {"volume", volume},
                {"ms", took},
                {"code", static_cast<int>(status.error_code())},
                {"error", status.error_message()}});
}

std::chrono::system_clock::time_point end_of(grpc::ServerContext* context) {
  const auto longest = std::chrono::system_clock::now() + kLongest;
  return std::min(context->deadline(), longest) - kAnswerTime;
}

}  // namespace

Operations::~Operations() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return under_way_.empty(); });
}

bool Operations::begin(const std::string& volume) {
  std::lock_guard lock(mutex_);
  return under_way_.size() < kMostUnderWay && under_way_.insert(volume).second;
}

grpc::Status Operations::run(grpc::ServerContext* context, const char* call,
                             const std::string& volume, std::function<grpc::Status()> work) {
  const auto since = Clock::now();
  if (!begin(volume)) {
    grpc::Status refused(grpc::StatusCode::ABORTED,
                         "an operation on volume " + volume + " is under way; try again");
    write_line(call, volume, refused, since);
    return refused;
  }
  auto outcome = std::make_shared<Outcome>();
  std::thread([this, outcome, call, volume, since, task = std::move(work)] {
    grpc::Status status = task();
    write_line(call, volume, status, since);
    // The volume is free before the answer leaves: the next call may follow at once.
    {
      std::lock_guard lock(outcome->mutex);
      outcome->status = std::move(status);
    }
    std::unique_lock free(mutex_);
    under_way_.erase(volume);
    std::lock_guard lock(outcome->mutex);
    outcome->over = true;
    outcome->changed.notify_all();
    changed_.notify_all();
  }).detach();
  std::unique_lock lock(outcome->mutex);
  if (outcome->changed.wait_until(lock, end_of(context), [&] { return outcome->over; }))
    return outcome->status;
  log::info("csi", "goes on without its caller", {{"call", call}, {"volume", volume}});
  return {grpc::StatusCode::DEADLINE_EXCEEDED,
          std::string(call) + " of volume " + volume + " goes on; call again"};
}

grpc::Status Operations::ask(const char* call, const std::string& volume,
                             const std::function<grpc::Status()>& work) {
  const auto since = Clock::now();
  grpc::Status status = work();
  if (!status.ok()) write_line(call, volume, status, since);
  return status;
}

}  // namespace cvol::csi
