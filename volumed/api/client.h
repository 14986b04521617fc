// ApiClient: the API of a volumed as plain calls. What the CLI uses; it knows nothing below.
//
// Threading: any thread; calls block. Errors are those of the daemon (the head of cvol.proto);
// kUnavailable if it cannot be reached, with what to do.
#pragma once

#include <cvol/v1/cvol.pb.h>

#include <functional>
#include <memory>
#include <string>

#include "volumed/base/result.h"

namespace cvol::api {

class ApiClient {
 public:
  // Address: see channel.h. Connects with the first call.
  static Result<std::unique_ptr<ApiClient>> open(const std::string& address);
  virtual ~ApiClient() = default;

  virtual Result<v1::GetStatusResponse> get_status() = 0;
  virtual Result<v1::ListNodesResponse> list_nodes() = 0;
  virtual Result<v1::ListDisksResponse> list_disks() = 0;
  virtual Result<v1::AddDiskResponse> add_disk(const v1::AddDiskRequest& request) = 0;
  virtual Result<v1::MoveDiskResponse> move_disk(const v1::MoveDiskRequest& request) = 0;
  virtual Result<v1::ScrubDiskResponse> scrub_disk(const v1::ScrubDiskRequest& request) = 0;
  virtual Result<v1::StopScrubResponse> stop_scrub(const v1::StopScrubRequest& request) = 0;
  virtual Result<v1::VerifyDiskResponse> verify_disk(const v1::VerifyDiskRequest& request) = 0;
  virtual Result<v1::RemoveDiskResponse> remove_disk(const v1::RemoveDiskRequest& request) = 0;
  virtual Result<v1::CreateVolumeResponse> create_volume(
      const v1::CreateVolumeRequest& request) = 0;
  virtual Result<v1::ListVolumesResponse> list_volumes() = 0;
  virtual Result<v1::GetVolumeResponse> get_volume(const v1::GetVolumeRequest& request) = 0;
  virtual Result<v1::ResizeVolumeResponse> resize_volume(
      const v1::ResizeVolumeRequest& request) = 0;
  virtual Result<v1::RemoveVolumeResponse> remove_volume(
      const v1::RemoveVolumeRequest& request) = 0;
  virtual Result<v1::AttachVolumeResponse> attach_volume(
      const v1::AttachVolumeRequest& request) = 0;
  virtual Result<v1::DetachVolumeResponse> detach_volume(
      const v1::DetachVolumeRequest& request) = 0;
  virtual Result<v1::MountVolumeResponse> mount_volume(const v1::MountVolumeRequest& request) = 0;
  virtual Result<v1::UnmountVolumeResponse> unmount_volume(
      const v1::UnmountVolumeRequest& request) = 0;
  virtual Result<v1::AttachVolumeResponse> force_attach_volume(
      const v1::AttachVolumeRequest& request) = 0;
  virtual Result<v1::ModifyVolumeResponse> modify_volume(
      const v1::ModifyVolumeRequest& request) = 0;
  virtual Result<v1::TrimVolumeResponse> trim_volume(const v1::TrimVolumeRequest& request) = 0;
  virtual Result<v1::MoveVolumeResponse> move_volume(const v1::MoveVolumeRequest& request) = 0;
  virtual Result<v1::ExplainVolumeResponse> explain_volume(
      const v1::ExplainVolumeRequest& request) = 0;
  virtual Result<v1::ChangeNodeResponse> change_node(const v1::ChangeNodeRequest& request) = 0;
  virtual Result<v1::RebuildRecordResponse> rebuild_record(
      const v1::RebuildRecordRequest& request) = 0;
  virtual Result<v1::MigrateClusterResponse> migrate_cluster(
      const v1::MigrateClusterRequest& request) = 0;
  // Calls `each` per message; returns when the comparison is over.
  virtual Status verify_volume(
      const v1::VerifyVolumeRequest& request,
      const std::function<void(const v1::VerifyVolumeProgress&)>& each) = 0;
  // Calls `each` per event; returns when the stream ends (never, with follow, but for an error).
  virtual Status watch_events(const v1::WatchEventsRequest& request,
                              const std::function<void(const v1::Event&)>& each) = 0;
};

}  // namespace cvol::api
