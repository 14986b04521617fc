// csi_call: one call of a CSI plugin, for shell scripts of a guest that has no other client.
//
//   csi_call SOCKET CALL [REQUEST]
//   csi_call /run/csi.sock NodeUnstageVolume "volume_id: 'x' staging_target_path: '/stage'"
//
// REQUEST is the call's message in Protobuf's text format; the response is printed in the same, on
// one line. The exit code is gRPC's status code (0: OK), with its text on stderr; 64: wrong use.
#include <google/protobuf/text_format.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "csi/csi.pb.h"

namespace {

namespace pb = google::protobuf;
constexpr int kWrongUse = 64;
constexpr std::chrono::seconds kCallTime{120};

const pb::MethodDescriptor* find_call(const std::string& name) {
  const pb::FileDescriptor* file = csi::v1::ProbeRequest::descriptor()->file();
  for (int i = 0; i < file->service_count(); ++i) {
    if (const auto* method = file->service(i)->FindMethodByName(name)) return method;
  }
  return nullptr;
}

std::unique_ptr<pb::Message> make(const pb::Descriptor* type) {
  return std::unique_ptr<pb::Message>(
      pb::MessageFactory::generated_factory()->GetPrototype(type)->New());
}

grpc::ByteBuffer encode(const pb::Message& message) {
  grpc::Slice slice(message.SerializeAsString());
  return {&slice, 1};
}

bool decode(const grpc::ByteBuffer& bytes, pb::Message& into) {
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok()) return false;
  std::string text;
  for (const grpc::Slice& slice : slices)
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return into.ParseFromString(text);
}

grpc::Status call(const std::string& socket, const pb::MethodDescriptor& method,
                  const pb::Message& request, pb::Message& response) {
  grpc::GenericStub stub(grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallTime);
  grpc::CompletionQueue queue;
  const std::string path = "/" + method.service()->full_name() + "/" + method.name();
  auto under_way = stub.PrepareUnaryCall(&context, path, encode(request), &queue);
  under_way->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  under_way->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (status.ok() && !decode(answer, response))
    return {grpc::StatusCode::INTERNAL, "the response cannot be read"};
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  const pb::MethodDescriptor* method = argc == 3 || argc == 4 ? find_call(argv[2]) : nullptr;
  if (method == nullptr) {
    std::fprintf(stderr, "usage: csi_call SOCKET CALL [REQUEST]\n");
    return kWrongUse;
  }
  auto request = make(method->input_type());
  auto response = make(method->output_type());
  if (argc == 4 && !pb::TextFormat::ParseFromString(argv[3], request.get())) return kWrongUse;
  const grpc::Status status = call(argv[1], *method, *request, *response);
  if (!status.ok()) {
    std::fprintf(stderr, "%s: code %d: %s\n", argv[2], status.error_code(),
                 status.error_message().c_str());
    return status.error_code();
  }
  std::printf("%s\n", response->ShortDebugString().c_str());
  return 0;
}
