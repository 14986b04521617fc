// The NBD codec.
#include <benchmark/benchmark.h>

#include <cstring>
#include <string>

#include "nbd/protocol/protocol.h"

namespace cvol::nbd {
namespace {

// A WRITE of 4 KiB as a client sends it.
std::string request_bytes() {
  const unsigned char bytes[kRequestBytes] = {0x25, 0x60, 0x95, 0x13, 0, 0, 0,    1, 0, 0,
                                              0,    0,    0,    0,    0, 7, 0,    0, 0, 0,
                                              0,    0x10, 0,    0,    0, 0, 0x10, 0};
  return {reinterpret_cast<const char*>(bytes), sizeof bytes};
}

void parse_and_check_request(benchmark::State& state) {
  const std::string text = request_bytes();
  const Agreement agreement{true, false, true};
  for (auto _ : state) {
    Result<Request> request =
        parse_request(std::as_bytes(std::span(text.data(), text.size())), agreement);
    benchmark::DoNotOptimize(payload_bytes(*request, agreement));
    benchmark::DoNotOptimize(check_request(*request, agreement, uint64_t{1} << 40, false));
  }
}
BENCHMARK(parse_and_check_request);

void encode_replies(benchmark::State& state) {
  const std::string text = request_bytes();
  const Agreement agreement{state.range(0) != 0, false, false};
  const Request request =
      *parse_request(std::as_bytes(std::span(text.data(), text.size())), agreement);
  for (auto _ : state) {
    benchmark::DoNotOptimize(encode_done(request, agreement, WireError::kNone));
    benchmark::DoNotOptimize(encode_read(request, agreement));
  }
}
BENCHMARK(encode_replies)->Arg(0)->Arg(1);

}  // namespace
}  // namespace cvol::nbd
