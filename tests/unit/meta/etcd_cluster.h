// A real etcd for tests: one or more members on loopback, in a temporary folder, on free ports.
//
// Of one thread. What was started is killed by pid when the object goes, or when the test dies.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "volumed/meta/etcd_endpoints.h"

namespace cvol::meta {

class EtcdCluster {
 public:
  // Returns when every member answers and sees a leader.
  // `tls`: it serves clients with this certificate, and those only who have one of the same CA.
  explicit EtcdCluster(int members, EtcdTls tls = {});
  ~EtcdCluster();
  EtcdCluster(const EtcdCluster&) = delete;
  EtcdCluster& operator=(const EtcdCluster&) = delete;

  std::string endpoint(int member) const;
  // All of them, `first` first.
  std::vector<std::string> endpoints(int first = 0) const;
  int leader() const;
  EtcdTls tls() const { return tls_; }

  void kill(int member);
  void restart(int member);     // after kill()
  void forget_all(int member);  // its data, after kill()
  void pause(int member);
  void resume(int member);
  // Forgets what was before the newest revision.
  void compact();

 private:
  struct Member {
    int client_port = 0;
    int peer_port = 0;
    pid_t pid = 0;
    bool answers = false;
  };

  bool start_all();
  bool await_all();
  void launch(int member);
  bool alive(int member);
  std::string client_url(int port) const;
  bool ask_status(int member, etcdserverpb::StatusResponse& response) const;

  EtcdTls tls_;
  std::string folder_;
  std::vector<Member> members_;
};

// Patient: for a busy machine.
EtcdOptions patient_options(std::vector<std::string> endpoints);
std::unique_ptr<MetadataStore> open_or_die(EtcdOptions options);

// Waits up to 60 s.
bool eventually(const std::function<bool()>& holds);

// Sends the same again until it is answered (R5).
CommitResult commit_until_answered(MetadataStore& store, const Transaction& transaction);

// Takes down what a watch tells.
class Recorder {
 public:
  WatchCallback callback();
  // Calls of the callback do not return until release().
  void hold();
  void release();
  // Waits up to 60 s for `count` events, held ones too, and returns what there is.
  std::vector<WatchEvent> await(std::size_t count);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<WatchEvent> events_;
  bool held_ = false;
};

}  // namespace cvol::meta
