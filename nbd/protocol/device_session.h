// How volumed knows the connections of its own devices: by the first letters of the session in the
// export name ("NAME@SESSION/GENERATION"). It is a label and no secret: a client that takes it
// loses the checks that protect its own volume, and no more.
#pragma once

#include <string_view>

namespace cvol::nbd {

constexpr std::string_view kDeviceSession = "cvoldevice";

inline bool is_device_session(std::string_view session) {
  return session.starts_with(kDeviceSession);
}

}  // namespace cvol::nbd
