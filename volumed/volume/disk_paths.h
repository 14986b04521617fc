// Paths of disks in records: relative to the data directory where they lie below it, so that a data
// directory that is moved or copied brings its own disks along.
//
// Pure but for looks at files; any thread.
#pragma once

#include <optional>
#include <string>

#include "volumed/base/uuid.h"

namespace cvol::volume {

// The path of a disk as its record has it. `path`: absolute.
std::string to_stored_path(const std::string& data_dir, const std::string& path);

// Where the disk `id` is, from the path in its record. Records of before have absolute paths: one
// that lies in another data directory's folder of disks means this one's, if the disk is there.
std::string to_real_path(const std::string& data_dir, const std::string& stored,
                         const std::string& id);

// The id in the label of the disk at `path`; nullopt: none that can be read. Changes nothing.
std::optional<Uuid> disk_at(const std::string& path);

}  // namespace cvol::volume
