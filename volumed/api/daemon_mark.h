// The mark by which a client tells an error that a volumed gave from one that the way to it gave:
// both are UNAVAILABLE, and only the second one means that no volumed answers.
//
// Threading: as the contexts.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>

namespace cvol::api {

constexpr const char* kDaemonMark = "cvol-answered";

// Before a call of the server ends, on its thread.
inline void mark_answer(grpc::ServerContext& context) {
  context.AddTrailingMetadata(kDaemonMark, "1");
}

// After the call has ended.
inline bool daemon_said(const grpc::ClientContext& context) {
  const auto& trailer = context.GetServerTrailingMetadata();
  return trailer.find(kDaemonMark) != trailer.end();
}

}  // namespace cvol::api
