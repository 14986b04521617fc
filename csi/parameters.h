// What orchestrators say of a volume, parsed and checked: pure functions on untrusted input.
//
// Threading: any thread; no state. kInvalidArgument says what is wrong and names it; kNoSpace
// stands for OUT_OF_RANGE (a capacity range that cannot be met).
#pragma once

#include <csi/csi.pb.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::csi {

namespace wire = ::csi::v1;

constexpr std::size_t kMostTextBytes = 128;  // of a field, unless the specification says more
constexpr std::size_t kMostPathBytes = 4000;
constexpr std::size_t kMostNodeIdBytes = 256;
constexpr std::size_t kMostMapBytes = 4096;  // of parameters, contexts, secrets
constexpr char kNodeTopology[] = "topology.cvol.io/node";
constexpr char kZoneTopology[] = "topology.cvol.io/zone";
constexpr char kMkfsLabel[] = "cvol.io/mkfs-options";  // of the volume; what NodeStage is to use
constexpr char kNameLabel[] = "cvol.io/csi-name";      // the orchestrator's, in full
constexpr char kMkfsContext[] = "mkfsOptions";

// Keys below the prefix are the orchestrator's own: it hands them on with some calls and keeps them
// back with others. The file system is read from them, the rest (secrets, names) is passed over.
constexpr char kReservedPrefix[] = "csi.storage.k8s.io/";
constexpr char kFsTypeKey[] = "csi.storage.k8s.io/fstype";

using Texts = std::map<std::string, std::string>;
Texts to_texts(const google::protobuf::Map<std::string, std::string>& map);

// Of CreateVolume: replicas, minInSync, fsType (or kFsTypeKey), mkfsOptions, zoneSpread.
struct CreateParameters {
  uint32_t replicas = 1;
  uint32_t min_in_sync = 1;
  std::string fs;  // empty: not said
  std::vector<std::string> mkfs_options;
  bool zone_spread = false;
};
// `changeable` wins where both say something. Unknown keys are refused by name;
// those of the orchestrator (kReservedPrefix) are not unknown.
Result<CreateParameters> parse_parameters(const Texts& parameters, const Texts& changeable);

struct ChangeableParameters {
  std::optional<uint32_t> replicas;
  std::optional<uint32_t> min_in_sync;
};
Result<ChangeableParameters> parse_changeable(const Texts& parameters);

std::vector<std::string> split_words(const std::string& text);

// One of the four SINGLE_NODE_... modes, block or mount, ext4 or xfs.
Status check_capability(const wire::VolumeCapability& capability);
template <typename Capabilities>
Status check_capabilities(const Capabilities& capabilities) {
  if (capabilities.empty())
    return Status(Code::kInvalidArgument, "volume_capabilities is required");
  for (const auto& capability : capabilities) CVOL_TRY(check_capability(capability));
  return Status::ok();
}
bool is_reader(const wire::VolumeCapability& capability);
// The file system that the capabilities ask for; empty: none does. kInvalidArgument: two.
Result<std::string> wanted_file_system(
    const google::protobuf::RepeatedPtrField<wire::VolumeCapability>& capabilities);

// The orchestrator's name as ours: itself if it can be one, else made from its checksum.
Result<std::string> volume_name(const std::string& name);
Status check_text(const std::string& text, const char* field, std::size_t most = kMostTextBytes);
Status check_path(const std::string& path, const char* field);

// Bytes: what is asked for, rounded up to whole MiB; 0 if nothing is said.
Result<uint64_t> choose_size(const wire::CapacityRange& range);
// Does a volume of `size` do for the range?
bool fits(uint64_t size, const wire::CapacityRange& range);

// A node as topology sees it.
struct Place {
  std::string node;
  std::string zone;  // empty: none
  uint64_t free_bytes = 0;
};
bool is_at(const Place& place, const wire::Topology& topology);
// Names of nodes, best first. kNoSpace if none of the required topologies is here.
Result<std::vector<std::string>> order_nodes(const std::vector<Place>& places,
                                             const wire::TopologyRequirement& wanted);
// The most that a volume with so many replicas, each on another node, can hold; all such volumes
// together.
struct Capacity {
  uint64_t available = 0;  // for volumes of any size
  uint64_t largest = 0;    // for one volume
};
Capacity capacity_of(std::vector<Place> places, uint32_t replicas, bool zone_spread);

}  // namespace cvol::csi
