// How a volume does, in words for people. Pure.
#pragma once

#include <csi/csi.pb.h>
#include <cvol/v1/cvol.pb.h>

#include <string>

namespace cvol::csi {

namespace wire = ::csi::v1;

// Abnormal: damaged, or not all wanted replicas are in sync.
wire::VolumeCondition condition_of(const v1::Volume& volume);

}  // namespace cvol::csi
