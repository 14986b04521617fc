// Status and Result<T>: how every part of cvol reports an operating error.
//
// A Status is a code and a text. The text is for people: it says what was being done, to what, and
// what to do next. Broken invariants are not Statuses: see assert.h. No code of cvol throws across
// a function that returns a Status or a Result.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "volumed/base/assert.h"

namespace cvol {

enum class Code {
  kOk,
  kInvalidArgument,     // the request can never succeed as it is
  kNotFound,            // no such volume, disk, file
  kAlreadyExists,       // the name is taken by something else
  kFailedPrecondition,  // right request, wrong state (still attached, still mounted)
  kBusy,                // held by another process or operation; may succeed later
  kNoSpace,             // disk full, or quota
  kDamaged,             // a checksum, magic or length does not hold
  kUnsupported,         // newer format, missing kernel feature, command not served
  kPermission,          // the operating system refused
  kIo,                  // a read, write or sync failed
  kUnavailable,         // the other side is away; retry
  kCancelled,           // the waiting was ended on purpose
  kInternal,            // everything else
};

// Name of a code as it appears in logs and JSON, for example "no_space".
std::string_view code_name(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status ok() { return {}; }
  bool is_ok() const { return code_ == Code::kOk; }
  explicit operator bool() const { return is_ok(); }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

  // The same error with what was being done in front: "open disk /x: ...".
  Status with_context(std::string_view doing) const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// A Status from errno (positive). The text is "DOING: strerror".
Status status_from_errno(int error, std::string_view doing);

// errno (positive) that comes closest to a code; what NBD and FUSE answer with.
int errno_from_code(Code code);

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                       // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {                // NOLINT: implicit by design
    CVOL_ASSERT(!status_.is_ok());
  }

  bool is_ok() const { return status_.is_ok(); }
  explicit operator bool() const { return is_ok(); }
  const Status& status() const { return status_; }
  Code code() const { return status_.code(); }
  const std::string& message() const { return status_.message(); }

  T& value() & {
    CVOL_ASSERT(value_.has_value());
    return *value_;
  }
  const T& value() const& {
    CVOL_ASSERT(value_.has_value());
    return *value_;
  }
  T&& value() && {
    CVOL_ASSERT(value_.has_value());
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

// Returns the Status from the enclosing function if EXPR is not ok.
#define CVOL_TRY(expr)                                            \
  do {                                                            \
    if (::cvol::Status cvol_status_ = (expr); !cvol_status_.is_ok()) return cvol_status_; \
  } while (0)

// The same inside a coroutine. (g++ 12 miscompiles some co_await inside the head of an if: none of
// ours stands there.)
#define CVOL_CO_TRY(expr)                                            \
  do {                                                               \
    ::cvol::Status cvol_status_ = (expr);                            \
    if (!cvol_status_.is_ok()) co_return cvol_status_;               \
  } while (0)

}  // namespace cvol
