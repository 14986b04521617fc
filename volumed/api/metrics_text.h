// Metrics in Prometheus' text format, from the counters of disks and volumes.
//
// Threading: any thread. Reading them opens no volume.
#pragma once

#include <string>

#include "volumed/volume/volume_manager.h"

namespace cvol::api {

constexpr const char* kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

std::string metrics_text(volume::VolumeManager& manager);

// A label's value with '\', '"' and line ends escaped.
std::string escape_label(const std::string& value);

}  // namespace cvol::api
