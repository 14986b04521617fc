// EtcdWatchStream: one Watch call to one endpoint, read by one thread that waits for a bounded
// time.
//
// Threading: of the thread that made it, which alone drives the call; cancel() from any.
#pragma once

#include <etcd/rpc.grpc.pb.h>
#include <grpcpp/completion_queue.h>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "volumed/meta/etcd_endpoints.h"

namespace cvol::meta {

class EtcdWatchStream {
 public:
  enum class Got { kResponse, kNothing, kEnded };

  // Begins to watch keys with this prefix, from `start` on. The endpoint has to outlive it.
  EtcdWatchStream(EtcdEndpoint& endpoint, std::string_view prefix, Revision start);
  ~EtcdWatchStream();
  EtcdWatchStream(const EtcdWatchStream&) = delete;
  EtcdWatchStream& operator=(const EtcdWatchStream&) = delete;

  // For `time` at most. kEnded: there will be nothing more.
  Got wait(std::chrono::milliseconds time);
  // After kResponse, until next().
  const etcdserverpb::WatchResponse& response() const { return response_; }
  // Done with the response. One at a time is read: etcd holds back what is not taken.
  void next();
  // Asks for a response without events, unless a request is still on its way.
  void ask_progress();
  // Ends it, and the waiting for it.
  void cancel() { context_.TryCancel(); }
  // Once, after kEnded: why.
  std::string problem();

 private:
  void write();
  // What has been done: one of the operations, whose number is the tag.
  Got complete(const void* tag, bool ok);

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<
      grpc::ClientAsyncReaderWriter<etcdserverpb::WatchRequest, etcdserverpb::WatchResponse>>
      call_;
  etcdserverpb::WatchRequest request_;
  etcdserverpb::WatchResponse response_;
  grpc::Status status_;
  bool writing_ = true;
};

}  // namespace cvol::meta
