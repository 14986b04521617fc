// Operations: one at a time per volume, each with a line in the log.
//
// An operation runs on a thread of its own. The call that began it waits for it as long as the
// caller does; if the deadline comes first the call ends with DEADLINE_EXCEEDED and the operation
// goes on. Until it is over, another call for the same volume is answered ABORTED.
//
// Threading: any thread. The destructor waits for what is under way (end it first: ApiCalls::stop).
#pragma once

#include <grpcpp/server_context.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>

namespace cvol::csi {

class Operations {
 public:
  ~Operations();

  // `volume`: id, or name before there is one. `work` owns what it uses: it may outlive the call.
  grpc::Status run(grpc::ServerContext* context, const char* call, const std::string& volume,
                   std::function<grpc::Status()> work);
  // Work that changes nothing: no lock.
  grpc::Status ask(const char* call, const std::string& volume,
                   const std::function<grpc::Status()>& work);

 private:
  struct Outcome {
    std::mutex mutex;
    std::condition_variable changed;
    bool over = false;
    grpc::Status status;
  };
  bool begin(const std::string& volume);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::string> under_way_;
};

}  // namespace cvol::csi
