// EtcdWatch: a watch of a prefix that goes on over lost streams, other endpoints and compactions.
//
// It knows the revision of each key with the prefix. When etcd no longer has what happened since
// the last event (a compaction, a restored copy), it lists the prefix again and tells the
// difference: the last value of each key that was changed, the end of each that is gone (with the
// revision of the listing).
//
// Threading: its callback runs on its own thread. The rules of Watch (metadata_store.h) apply.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "volumed/meta/etcd_list.h"
#include "volumed/meta/etcd_watch_stream.h"

namespace cvol::meta {

class EtcdWatch final : public Watch {
 public:
  // kUnavailable: etcd does not say which revision it is at.
  static Result<std::unique_ptr<Watch>> start(std::shared_ptr<EtcdEndpoints> endpoints,
                                              std::string prefix, WatchCallback callback);
  ~EtcdWatch() override;

 private:
  enum class End { kStopped, kLost, kCompacted };

  EtcdWatch(std::shared_ptr<EtcdEndpoints> endpoints, std::string prefix, WatchCallback callback);
  void run();
  void pause();
  End follow(EtcdEndpoint& endpoint);
  End read(EtcdWatchStream& stream);
  End take(const etcdserverpb::WatchResponse& response);
  void list_again();
  void deliver(std::vector<WatchEvent> events);
  bool publish(EtcdWatchStream* stream);

  const std::shared_ptr<EtcdEndpoints> endpoints_;
  const std::string prefix_;
  const WatchCallback callback_;
  std::map<std::string, Revision> known_;  // of every key with the prefix
  Revision next_ = 0;                      // everything before it has been told
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;
  std::condition_variable stopped_;
  EtcdWatchStream* stream_ = nullptr;  // the one that is read
  std::thread thread_;                 // last
};

}  // namespace cvol::meta
