// The manager's views as API messages.
#pragma once

#include <cvol/v1/cvol.pb.h>

#include "volumed/volume/volume_manager.h"

namespace cvol::api {

v1::Volume to_proto(const volume::VolumeView& view, volume::VolumeManager& manager);
v1::Disk to_proto(const volume::DiskView& view, const std::string& node);
volume::EventFilter to_filter(const v1::WatchEventsRequest& request);
v1::Event to_proto(const volume::Event& event);
void fill_nodes(volume::VolumeManager& manager, v1::ListNodesResponse& response);
void fill_status(volume::VolumeManager& manager, v1::GetStatusResponse& status);
volume::StageRequest to_request(const v1::StageVolumeRequest& message);
volume::ShowRequest to_request(const v1::ShowVolumeRequest& message);
void fill_usage(const mount::Usage& usage, v1::GetVolumeUsageResponse& response);

// "0.1.0".
const char* version();

}  // namespace cvol::api
