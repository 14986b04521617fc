#include "volumed/meta/etcd_watch.h"

#include <algorithm>

#include "volumed/base/log.h"

namespace cvol::meta {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPauseAfterLoss{200};

WatchEvent event_of(const mvccpb::Event& event) {
  WatchEvent made{event.kv().key(), {}, static_cast<Revision>(event.kv().mod_revision())};
  if (event.type() == mvccpb::Event::PUT) made.value = event.kv().value();
  return made;
}

}  // namespace

EtcdWatch::EtcdWatch(std::shared_ptr<EtcdEndpoints> endpoints, std::string prefix,
                     WatchCallback callback)
    : endpoints_(std::move(endpoints)),
      prefix_(std::move(prefix)),
      callback_(std::move(callback)) {}

Result<std::unique_ptr<Watch>> EtcdWatch::start(std::shared_ptr<EtcdEndpoints> endpoints,
                                                std::string prefix, WatchCallback callback) {
  std::unique_ptr<EtcdWatch> watch(
      new EtcdWatch(std::move(endpoints), std::move(prefix), std::move(callback)));
  auto listing = list_etcd(*watch->endpoints_, watch->prefix_, true);
  if (!listing) return listing.status().with_context("watch");
  for (Entry& entry : listing->entries) watch->known_[std::move(entry.key)] = entry.revision;
  watch->next_ = listing->revision + 1;
  watch->thread_ = std::thread([it = watch.get()] { it->run(); });
  return std::unique_ptr<Watch>(std::move(watch));
}

EtcdWatch::~EtcdWatch() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    if (stream_ != nullptr) stream_->cancel();
    stopped_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void EtcdWatch::run() {
  while (!stopping_) {
    auto endpoint = endpoints_->connect();
    if (!endpoint) {
      log::debug("meta", "a watch finds no etcd", {{"error", endpoint.message()}});
      pause();
      continue;
    }
    switch (follow(**endpoint)) {
      case End::kStopped:
        return;
      case End::kLost:
        endpoints_->avoid(**endpoint);
        pause();
        break;
      case End::kCompacted:
        list_again();
        break;
    }
  }
}

void EtcdWatch::pause() {
  std::unique_lock lock(mutex_);
  stopped_.wait_for(lock, kPauseAfterLoss, [this] { return stopping_.load(); });
}

// Makes the stream known to the destructor, which cancels it. False: it has been too early for
// that.
bool EtcdWatch::publish(EtcdWatchStream* stream) {
  std::lock_guard lock(mutex_);
  stream_ = stream;
  return !stopping_;
}

EtcdWatch::End EtcdWatch::follow(EtcdEndpoint& endpoint) {
  EtcdWatchStream stream(endpoint, prefix_, next_);
  const End end = publish(&stream) ? read(stream) : End::kStopped;
  publish(nullptr);
  if (end == End::kLost)
    log::info("meta", "a watch has lost its etcd; it goes on with the next",
              {{"etcd", endpoint.address}, {"prefix", prefix_}});
  return end;
}

EtcdWatch::End EtcdWatch::read(EtcdWatchStream& stream) {
  const EtcdOptions& options = endpoints_->options();
  auto heard = Clock::now();
  while (!stopping_) {
    switch (stream.wait(options.watch_ask_after)) {
      case EtcdWatchStream::Got::kEnded:
        log::debug("meta", "the stream of a watch has ended", {{"error", stream.problem()}});
        return stopping_ ? End::kStopped : End::kLost;
      case EtcdWatchStream::Got::kNothing:
        if (Clock::now() - heard > options.watch_silence) return End::kLost;
        stream.ask_progress();
        break;
      case EtcdWatchStream::Got::kResponse:
        if (const End end = take(stream.response()); end != End::kStopped) return end;
        stream.next();
        heard = Clock::now();  // after the callback, which may take its time
        break;
    }
  }
  return End::kStopped;
}

// kStopped: go on. kCompacted: list again.
EtcdWatch::End EtcdWatch::take(const etcdserverpb::WatchResponse& response) {
  // The revision in the header of a response without events is not used: before 3.4.25 and 3.5.8
  // it may be ahead of events that are still to come.
  std::vector<WatchEvent> events;
  for (const mvccpb::Event& event : response.events()) events.push_back(event_of(event));
  deliver(std::move(events));
  if (response.compact_revision() != 0) return End::kCompacted;
  // Behind what was told: the member lags (a listing waits for it), or etcd was restored from a
  // copy and would say nothing until it is that far again.
  const Revision at = static_cast<Revision>(response.header().revision());
  if (response.created() && at + 1 < next_) return End::kCompacted;
  if (!response.canceled()) return End::kStopped;
  log::warning("meta", "etcd has ended a watch", {{"reason", response.cancel_reason()}});
  return End::kLost;
}

void EtcdWatch::list_again() {
  auto listing = list_etcd(*endpoints_, prefix_, false, &stopping_);
  if (!listing) {
    log::warning("meta", "a watch cannot list what it has missed", {{"error", listing.message()}});
    pause();
    return;  // the next stream ends with kCompacted again
  }
  std::vector<WatchEvent> events;
  std::map<std::string, Revision> gone = known_;
  for (Entry& entry : listing->entries) {
    const auto known = gone.find(entry.key);
    const bool same = known != gone.end() && known->second == entry.revision;
    if (known != gone.end()) gone.erase(known);
    if (!same) events.push_back({std::move(entry.key), std::move(entry.value), entry.revision});
  }
  std::stable_sort(events.begin(), events.end(), [](const WatchEvent& a, const WatchEvent& b) {
    return a.revision < b.revision;
  });
  for (const auto& [key, revision] : gone) events.push_back({key, {}, listing->revision});
  next_ = 0;  // what is listed may be older than what was told, if etcd was restored
  deliver(std::move(events));
  next_ = listing->revision + 1;
}

// In order of revisions; one call for each. What has been told is left out.
void EtcdWatch::deliver(std::vector<WatchEvent> events) {
  for (auto from = events.begin(); from != events.end() && !stopping_;) {
    const Revision revision = from->revision;
    const auto to = std::find_if(
        from, events.end(), [&](const WatchEvent& event) { return event.revision != revision; });
    const std::vector<WatchEvent> group(std::make_move_iterator(from), std::make_move_iterator(to));
    from = to;
    if (revision < next_) continue;
    for (const WatchEvent& event : group) {
      if (event.value) {
        known_[event.key] = revision;
      } else {
        known_.erase(event.key);
      }
    }
    callback_(group);
    next_ = revision + 1;
  }
}

}  // namespace cvol::meta
