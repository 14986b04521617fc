// cvol-watcher: waits for the end of the volumed that started it and tells the other nodes, so that
// they need not wait for its leases. Started by volumed only: descriptor 3 is its pidfd, standard
// input says who it is ("self CLUSTER NODE PROCESS") and whom to tell ("peer tcp:HOST:PORT"), as
// often as that changes, each time ending in "done".
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "replication/wire/frame.h"

namespace {

using namespace cvol;

constexpr int kProcess = 3;
constexpr int kTellMilliseconds = 2000;

struct News {
  replication::wire::Death death;
  std::vector<std::string> peers;
};

// One whole account, "self" to "done".
bool parse(const std::string& text, News& news) {
  std::istringstream lines(text);
  News fresh;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string kind, first, second, third;
    words >> kind >> first >> second >> third;
    if (kind == "self") {
      auto cluster = Uuid::parse(first), node = Uuid::parse(second), process = Uuid::parse(third);
      if (!cluster || !node || !process) return false;
      fresh.death = {*cluster, *node, *process};
    } else if (kind == "peer") {
      fresh.peers.push_back(first);
    }
  }
  news = std::move(fresh);
  return true;
}

// "tcp:HOST:PORT", "tcp:[::1]:PORT". -1: no way there.
int begin_connect(const std::string& address) {
  if (!address.starts_with("tcp:")) return -1;
  const auto colon = address.rfind(':');
  std::string host = address.substr(4, colon - 4);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found) != 0) {
    hints.ai_flags = AI_NUMERICSERV;
    if (getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found) != 0)
      return -1;
  }
  const int handle = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const bool begun = handle >= 0 && (connect(handle, found->ai_addr, found->ai_addrlen) == 0 ||
                                     errno == EINPROGRESS);
  freeaddrinfo(found);
  if (begun) return handle;
  if (handle >= 0) close(handle);
  return -1;
}

void tell(const News& news) {
  std::vector<std::byte> frame;
  replication::wire::FrameHeader header;
  header.type = static_cast<uint8_t>(replication::wire::FrameType::kDead);
  replication::wire::encode_frame(header, replication::wire::encode_death(news.death), frame);
  std::vector<pollfd> waiting;
  for (const std::string& peer : news.peers) {
    const int handle = begin_connect(peer);
    if (handle >= 0) waiting.push_back({handle, POLLOUT, 0});
  }
  for (int left = kTellMilliseconds; left > 0 && !waiting.empty(); left -= 100) {
    if (poll(waiting.data(), waiting.size(), 100) < 0 && errno != EINTR) return;
    for (std::size_t i = 0; i < waiting.size();) {
      if (waiting[i].revents == 0) {
        ++i;
        continue;
      }
      [[maybe_unused]] const ssize_t sent =
          send(waiting[i].fd, frame.data(), frame.size(), MSG_NOSIGNAL);
      shutdown(waiting[i].fd, SHUT_WR);
      close(waiting[i].fd);
      waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

}  // namespace

int main() {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  signal(SIGTERM, SIG_IGN);  // it ends when volumed has ended
  (void)mlockall(MCL_CURRENT);
  News news;
  std::string input;
  pollfd watched[2] = {{kProcess, POLLIN, 0}, {0, POLLIN, 0}};
  while (true) {
    if (poll(watched, 2, -1) < 0 && errno != EINTR) return 1;
    if (watched[0].revents != 0) break;  // it has ended
    if (watched[1].revents == 0) continue;
    char part[4096];
    const ssize_t got = read(0, part, sizeof part);
    if (got <= 0) {
      watched[1].fd = -1;  // the pipe's end is closed; the process may still live
      continue;
    }
    input.append(part, static_cast<std::size_t>(got));
    for (std::size_t end; (end = input.find("done\n")) != std::string::npos;) {
      (void)parse(input.substr(0, end), news);
      input.erase(0, end + 5);
    }
  }
  if (!news.death.process.is_nil()) tell(news);
  return 0;
}
