// Where the API is found.
#pragma once

#include <string>

namespace cvol::api {

// Where the API is by default: --api, else CVOL_API, else this.
constexpr const char* kDefaultApi = "unix:/run/cvol/api.sock";

// `given`, or CVOL_API, or the default.
std::string api_address(const std::string& given);

}  // namespace cvol::api
