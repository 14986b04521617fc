#include "volumed/base/result.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cvol {

void assertion_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "assertion failed: %s (%s:%d)\n", expression, file, line);
  std::fflush(stderr);
  std::abort();
}

std::string_view code_name(Code code) {
  switch (code) {
    case Code::kOk:
      return "ok";
    case Code::kInvalidArgument:
      return "invalid_argument";
    case Code::kNotFound:
      return "not_found";
    case Code::kAlreadyExists:
      return "already_exists";
    case Code::kFailedPrecondition:
      return "failed_precondition";
    case Code::kBusy:
      return "busy";
    case Code::kNoSpace:
      return "no_space";
    case Code::kDamaged:
      return "damaged";
    case Code::kUnsupported:
      return "unsupported";
    case Code::kPermission:
      return "permission";
    case Code::kIo:
      return "io";
    case Code::kUnavailable:
      return "unavailable";
    case Code::kCancelled:
      return "cancelled";
    case Code::kInternal:
      return "internal";
  }
  return "internal";
}

Status Status::with_context(std::string_view doing) const {
  if (is_ok()) return *this;
  return Status(code_, std::string(doing) + ": " + message_);
}

static Code code_from_errno(int error) {
  switch (error) {
    case ENOENT:
      return Code::kNotFound;
    case EEXIST:
      return Code::kAlreadyExists;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:  // of the file system's largest file
      return Code::kNoSpace;
    case EBUSY:
    case EAGAIN:
    case EINTR:
    case EMFILE:  // a lack of descriptors or memory passes, and says nothing of what was opened
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
      return Code::kBusy;
    case EACCES:
    case EPERM:
    case EROFS:
      return Code::kPermission;
    case EINVAL:
    case ENAMETOOLONG:
      return Code::kInvalidArgument;
    case ECANCELED:
      return Code::kCancelled;
    case EOPNOTSUPP:
    case ENOSYS:
      return Code::kUnsupported;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case ETIMEDOUT:
      return Code::kUnavailable;
    default:
      return Code::kIo;
  }
}

// What to do where the error itself does not say it.
static std::string_view advice_for(int error) {
  if (error == EMFILE) return "; raise the limit of open files (LimitNOFILE in volumed.service)";
  if (error == ENFILE) return "; raise the host's limit of open files (sysctl fs.file-max)";
  return "";
}

Status status_from_errno(int error, std::string_view doing) {
  char buffer[128];
  const char* text = strerror_r(error, buffer, sizeof buffer);
  return Status(code_from_errno(error),
                std::string(doing) + ": " + text + std::string(advice_for(error)));
}

int errno_from_code(Code code) {
  switch (code) {
    case Code::kOk:
      return 0;
    case Code::kInvalidArgument:
      return EINVAL;
    case Code::kNotFound:
      return ENOENT;
    case Code::kAlreadyExists:
      return EEXIST;
    case Code::kFailedPrecondition:
    case Code::kBusy:
      return EBUSY;
    case Code::kNoSpace:
      return ENOSPC;
    case Code::kUnsupported:
      return EOPNOTSUPP;
    case Code::kPermission:
      return EPERM;
    case Code::kCancelled:
      return ECANCELED;
    case Code::kUnavailable:
      return ESHUTDOWN;
    default:
      return EIO;
  }
}

}  // namespace cvol
