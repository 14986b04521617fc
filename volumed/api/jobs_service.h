// JobsService: the API as it is served: an implementation behind bounds. Calls that may wait run as
// jobs (job_gate.h); a client that hangs up, or whose deadline is over, gives its thread back. With
// the metadata store away such a call ends after 10 s, and says so; what it began goes on.
//
// A call that is added to cvol.proto has to be added here too: what is not, is UNIMPLEMENTED.
//
// Threading: as the service; `inner` and `manager` outlive it.
#pragma once

#include <cvol/v1/cvol.grpc.pb.h>

#include <memory>

#include "volumed/volume/volume_manager.h"

namespace cvol::api {

std::unique_ptr<v1::Cvol::Service> make_jobs_service(v1::Cvol::Service& inner,
                                                     volume::VolumeManager& manager);

}  // namespace cvol::api
