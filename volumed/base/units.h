// Sizes that the whole of cvol agrees on, and the text form of sizes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "volumed/base/result.h"

namespace cvol {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kGiB = 1024 * kMiB;
constexpr uint64_t kTiB = 1024 * kGiB;
constexpr uint64_t kPiB = 1024 * kTiB;

constexpr uint64_t kBlockBytes = 4 * kKiB;   // unit of checksums
constexpr uint64_t kChunkBytes = 64 * kKiB;  // unit of allocation
constexpr uint64_t kBlocksPerChunk = kChunkBytes / kBlockBytes;
constexpr uint64_t kMaxVolumeBytes = 4 * kPiB;
constexpr uint64_t kMaxRequestBytes = 32 * kMiB;  // largest NBD payload

constexpr uint32_t kMostReplicas = 8;  // of a volume

// Parses "10GiB", "10G", "10GB", "1.5TiB", "4096". "GB" means 10^9 and "GiB" 2^30; K, M, G, T, P
// alone mean powers of 1024. kInvalidArgument names the text and gives an example.
Result<uint64_t> parse_size(std::string_view text);

// The same for the size of a volume: what is no multiple of 4 KiB becomes the next one.
Result<uint64_t> parse_volume_size(std::string_view text);

// Both forms of a size that is no round number: "9.3GiB (10000003072 bytes)".
std::string format_exact_size(uint64_t bytes);

// "10GiB", "1.5GiB", "512B": at most one decimal, exact sizes without one.
std::string format_size(uint64_t bytes);

// Bytes per second: "64MiB/s" or "64MiB", from 64KiB/s to 64GiB/s.
Result<uint64_t> parse_rate(std::string_view text);
Status validate_rate(uint64_t bytes_per_second);

// Seconds of "14d", "36h", "90min" or "30s"; "0" without a unit.
Result<uint64_t> parse_duration(std::string_view text);

// Checks a user-chosen name against [a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}.
Status validate_name(std::string_view name, std::string_view what);

// The same for a volume that is to be made: two characters at least. `docker run -v m:/data` takes
// a letter alone for the drive of a path.
Status validate_new_volume_name(std::string_view name);

// Checks a volume size: at least 1 MiB, at most kMaxVolumeBytes, a multiple of 4 KiB.
Status validate_volume_size(uint64_t bytes);

}  // namespace cvol
