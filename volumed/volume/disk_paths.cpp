#include "volumed/volume/disk_paths.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <span>

#include "volumed/base/units.h"
#include "volumed/store/format.h"

namespace cvol::volume {
namespace {

namespace fs = std::filesystem;

fs::path canonical(const std::string& path) {
  std::error_code error;
  const fs::path found = fs::weakly_canonical(path, error);
  return error ? fs::path(path).lexically_normal() : found;
}

}  // namespace

std::string to_stored_path(const std::string& data_dir, const std::string& path) {
  const fs::path relative = canonical(path).lexically_relative(canonical(data_dir));
  const bool below = !relative.empty() && relative != "." && *relative.begin() != "..";
  return below ? relative.string() : path;
}

std::string to_real_path(const std::string& data_dir, const std::string& stored,
                         const std::string& id) {
  const fs::path path(stored);
  if (path.is_relative()) return canonical((fs::path(data_dir) / path).string()).string();
  if (to_stored_path(data_dir, stored) != stored) return stored;
  const fs::path own = canonical(data_dir) / "disks" / path.filename();
  if (path.parent_path().filename() != "disks") return stored;
  const std::optional<Uuid> found = disk_at(own.string());
  return found && found->to_string() == id ? own.string() : stored;
}

std::optional<Uuid> disk_at(const std::string& path) {
  std::ifstream file(path + "/label", std::ios::binary);
  std::array<char, kBlockBytes> block;
  for (uint64_t copy = 0; copy < store::kLabelCopies; ++copy) {
    if (!file.read(block.data(), block.size())) return std::nullopt;
    const auto label = store::decode_label(std::as_bytes(std::span(block)));
    if (label) return label->disk;
  }
  return std::nullopt;
}

}  // namespace cvol::volume
