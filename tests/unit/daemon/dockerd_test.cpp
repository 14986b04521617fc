#include "volumed/daemon/dockerd.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

namespace cvol::daemon {
namespace {

constexpr char kHead[] = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n";

TEST(Dockerd, OnlyAWholeListSaysWhetherThereIsAContainer) {
  EXPECT_EQ(parse_containers(std::string(kHead) + "[]\n"), false);
  EXPECT_EQ(parse_containers(std::string(kHead) + R"([{"Id":"a"}])"), true);
  for (const std::string& answer :
       {std::string(), std::string(kHead), std::string(kHead) + "[", std::string(kHead) + "null",
        std::string(kHead) + "{}", std::string("HTTP/1.0 500 No\r\n\r\n[]"),
        std::string("HTTP/1.0 200 OK\r\n[]"), std::string("[]")}) {
    EXPECT_EQ(parse_containers(answer), std::nullopt) << answer;
  }
}

TEST(Dockerd, TheNameIsAFilterAndNothingElse) {
  EXPECT_EQ(containers_target("db"),
            "/containers/json?all=1&filters=%7B%22volume%22%3A%5B%22db%22%5D%7D");
  EXPECT_EQ(containers_target("a&b").find('&', 25), std::string::npos);
}

TEST(Dockerd, NobodyThereIsNoAnswer) {
  EXPECT_EQ(Dockerd("").has_container_with("v"), std::nullopt);
  EXPECT_EQ(Dockerd("/nowhere/docker.sock").has_container_with("v"), std::nullopt);
  EXPECT_EQ(Dockerd("/nowhere/docker.sock").list_volumes().code(), Code::kUnavailable);
}

// Answers each request with an empty list; keeps streams of events open until it ends.
class FakeDockerd {
 public:
  explicit FakeDockerd(std::string path) : path_(std::move(path)) {
    listener_ = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
    unlink(path_.c_str());
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener_, 8), 0);
    thread_ = std::thread([this] { run(); });
  }
  ~FakeDockerd() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
    for (const int stream : streams_) close(stream);
  }
  bool was_asked(const std::string& target, int times) {
    for (int i = 0; i < 2000; ++i) {
      {
        std::lock_guard lock(mutex_);
        int found = 0;
        for (const std::string& line : lines_) found += line.starts_with("GET " + target) ? 1 : 0;
        if (found >= times) return true;
      }
      usleep(5000);
    }
    return false;
  }

 private:
  void run() {
    for (int client; (client = accept(listener_, nullptr, nullptr)) >= 0;) {
      char buffer[4096];
      const ssize_t got = recv(client, buffer, sizeof buffer, 0);
      const std::string line(buffer, got > 0 ? static_cast<std::size_t>(got) : 0);
      std::lock_guard lock(mutex_);
      lines_.push_back(line);
      if (line.starts_with("GET /events")) {
        streams_.push_back(client);
        continue;
      }
      const std::string answer = std::string(kHead) + "[]";
      EXPECT_GT(send(client, answer.data(), answer.size(), MSG_NOSIGNAL), 0);
      close(client);
    }
  }
  std::string path_;
  int listener_ = -1;
  std::mutex mutex_;
  std::vector<std::string> lines_;
  std::vector<int> streams_;
  std::thread thread_;
};

TEST(DockerWatch, MakesDockerdLookWheneverItHasStarted) {
  const std::string path = testing::TempDir() + "dockerd-" + std::to_string(getpid()) + ".sock";
  auto dockerd = std::make_unique<FakeDockerd>(path);
  auto watch = DockerWatch::start(path);
  EXPECT_TRUE(dockerd->was_asked("/volumes ", 1));
  EXPECT_TRUE(dockerd->was_asked("/events", 1));
  EXPECT_EQ(Dockerd(path).has_container_with("v"), false);
  dockerd.reset();
  dockerd = std::make_unique<FakeDockerd>(path);
  EXPECT_TRUE(dockerd->was_asked("/volumes ", 1));
  watch.reset();
}

}  // namespace
}  // namespace cvol::daemon
