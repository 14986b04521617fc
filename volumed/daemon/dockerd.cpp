#include "volumed/daemon/dockerd.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "volumed/base/log.h"

namespace cvol::daemon {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr char kDefaultSocket[] = "/var/run/docker.sock";
constexpr std::size_t kMostBytes = 16 * 1024 * 1024;
constexpr seconds kAnswerTime{10};
constexpr seconds kListTime{60};  // it asks all its plugins, and this one may be starting
constexpr milliseconds kPause{5000};

class Socket {
 public:
  ~Socket() {
    if (number_ >= 0) ::close(number_);
  }
  Status connect(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path)
      return Status(Code::kUnavailable, "dockerd has no socket here");
    std::memcpy(address.sun_path, path.data(), path.size());
    number_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (number_ < 0) return status_from_errno(errno, "make a socket");
    if (::connect(number_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0)
      return Status::ok();
    return Status(Code::kUnavailable, "dockerd does not listen at " + path);
  }
  // HTTP/1.0: the answer ends with the connection.
  Status ask(const std::string& target) {
    const std::string text = "GET " + target + " HTTP/1.0\r\nHost: docker\r\n\r\n";
    if (::send(number_, text.data(), text.size(), MSG_NOSIGNAL) ==
        static_cast<ssize_t>(text.size()))
      return Status::ok();
    return Status(Code::kUnavailable, "dockerd takes no request");
  }
  int number() const { return number_; }

 private:
  int number_ = -1;
};

Result<std::string> fetch(const std::string& path, const std::string& target, seconds most) {
  Socket socket;
  CVOL_TRY(socket.connect(path));
  CVOL_TRY(socket.ask(target));
  const auto end = Clock::now() + most;
  std::string text;
  char buffer[16 * 1024];
  while (text.size() < kMostBytes) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now()).count();
    pollfd wait{socket.number(), POLLIN, 0};
    if (left <= 0 || ::poll(&wait, 1, static_cast<int>(left)) == 0)
      return Status(Code::kUnavailable, "dockerd does not answer");
    const ssize_t got = ::recv(socket.number(), buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return status_from_errno(errno, "read what dockerd says");
    if (got == 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return Status(Code::kUnavailable, "dockerd says too much");
}

bool is_good(std::string_view answer) {
  return answer.starts_with("HTTP/1.") && answer.substr(8, 5) == " 200 ";
}

std::string encode(const std::string& text) {
  std::string encoded;
  for (const unsigned char c : text) {
    const bool plain = std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
    char hex[4];
    std::snprintf(hex, sizeof hex, "%%%02X", c);
    encoded += plain ? std::string(1, static_cast<char>(c)) : hex;
  }
  return encoded;
}

class RealWatch final : public DockerWatch {
 public:
  explicit RealWatch(std::string path) : path_(std::move(path)), thread_([this] { run(); }) {}
  ~RealWatch() override {
    const uint64_t one = 1;
    if (::write(stop_, &one, sizeof one) == sizeof one) thread_.join();
    ::close(stop_);
  }

 private:
  void run() {
    while (!stopped_within(milliseconds(0))) {
      if (const Status listed = Dockerd(path_).list_volumes(); listed.is_ok()) {
        log::info("docker", "dockerd knows the volume plugin");
        wait_for_its_end();
      }
      if (stopped_within(kPause)) return;
    }
  }

  bool stopped_within(milliseconds most) const {
    pollfd wait{stop_, POLLIN, 0};
    return ::poll(&wait, 1, static_cast<int>(most.count())) != 0;
  }

  // A stream of events that never come: it ends with dockerd.
  void wait_for_its_end() const {
    Socket socket;
    const std::string filter = R"({"type":["daemon"],"event":["reload"]})";
    if (!socket.connect(path_) || !socket.ask("/events?filters=" + encode(filter))) return;
    char buffer[4096];
    for (;;) {
      pollfd waits[2] = {{socket.number(), POLLIN, 0}, {stop_, POLLIN, 0}};
      if (::poll(waits, 2, -1) < 0 && errno != EINTR) return;
      if (waits[1].revents != 0) return;
      if (waits[0].revents != 0 && ::recv(socket.number(), buffer, sizeof buffer, 0) <= 0) return;
    }
  }

  const std::string path_;
  const int stop_ = ::eventfd(0, EFD_CLOEXEC);
  std::thread thread_;
};

}  // namespace

std::string Dockerd::find_socket() {
  const char* host = std::getenv("DOCKER_HOST");
  if (host == nullptr || *host == '\0') return kDefaultSocket;
  constexpr std::string_view kUnix = "unix://";
  const std::string text = host;
  return text.starts_with(kUnix) ? text.substr(kUnix.size()) : "";
}

std::string containers_target(const std::string& volume) {
  const nlohmann::json filter = {{"volume", {volume}}};
  return "/containers/json?all=1&filters=" + encode(filter.dump());
}

std::optional<bool> parse_containers(std::string_view answer) {
  const std::size_t body = answer.find("\r\n\r\n");
  if (!is_good(answer) || body == std::string_view::npos) return std::nullopt;
  const auto list = nlohmann::json::parse(answer.substr(body + 4), nullptr, false);
  if (!list.is_array()) return std::nullopt;
  return !list.empty();
}

std::optional<bool> Dockerd::has_container_with(const std::string& volume) const {
  const auto answer = fetch(socket_, containers_target(volume), kAnswerTime);
  return answer ? parse_containers(*answer) : std::nullopt;
}

Status Dockerd::list_volumes() const {
  const auto answer = fetch(socket_, "/volumes", kListTime);
  if (!answer) return answer.status();
  if (is_good(*answer)) return Status::ok();
  return Status(Code::kUnavailable, "dockerd refuses to list its volumes");
}

std::unique_ptr<DockerWatch> DockerWatch::start(std::string socket_path) {
  return std::make_unique<RealWatch>(std::move(socket_path));
}

}  // namespace cvol::daemon
