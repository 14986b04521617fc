#include "volumed/meta/etcd_watch_stream.h"

#include "volumed/meta/etcd_list.h"

namespace cvol::meta {
namespace {

// Tags of the operations: addresses of nothing else.
char started, written, received, finished;

}  // namespace

EtcdWatchStream::EtcdWatchStream(EtcdEndpoint& endpoint, std::string_view prefix, Revision start) {
  // A member that loses its leader ends the stream, rather than being silent for good.
  EtcdEndpoints::require_leader(context_);
  auto* create = request_.mutable_create_request();
  create->set_key(begin_of_prefix(prefix));
  create->set_range_end(end_of_prefix(prefix));
  create->set_start_revision(static_cast<int64_t>(start));
  call_ = endpoint.watch->PrepareAsyncWatch(&context_, &queue_);
  call_->StartCall(&started);
}

EtcdWatchStream::~EtcdWatchStream() {
  context_.TryCancel();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

EtcdWatchStream::Got EtcdWatchStream::wait(std::chrono::milliseconds time) {
  const auto until = std::chrono::system_clock::now() + time;
  for (;;) {
    void* tag = nullptr;
    bool ok = false;
    const auto next = queue_.AsyncNext(&tag, &ok, until);
    if (next != grpc::CompletionQueue::GOT_EVENT) return Got::kNothing;
    if (const Got got = complete(tag, ok); got != Got::kNothing) return got;
  }
}

EtcdWatchStream::Got EtcdWatchStream::complete(const void* tag, bool ok) {
  if (!ok) return Got::kEnded;
  if (tag == &received) return Got::kResponse;
  if (tag == &started) {
    write();
    call_->Read(&response_, &received);
  }
  if (tag == &written) writing_ = false;
  return Got::kNothing;
}

void EtcdWatchStream::write() {
  writing_ = true;
  call_->Write(request_, &written);
}

void EtcdWatchStream::next() {
  response_.Clear();
  call_->Read(&response_, &received);
}

void EtcdWatchStream::ask_progress() {
  if (writing_) return;
  request_.mutable_progress_request();
  write();
}

std::string EtcdWatchStream::problem() {
  context_.TryCancel();  // of no effect on a status that is there
  call_->Finish(&status_, &finished);
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok) && tag != &finished) {
  }
  return status_.error_message();
}

}  // namespace cvol::meta
