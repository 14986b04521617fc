// The pipeline against a small server that can be told to hold its answers and to die.
#include "nbd/client/pipeline.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <set>

namespace cvol::nbd::client {
namespace {

uint64_t big_endian(const unsigned char* from, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) value = value << 8 | from[i];
  return value;
}

void put(std::string& to, uint64_t value, int bytes) {
  for (int i = bytes - 1; i >= 0; --i) to.push_back(static_cast<char>(value >> (8 * i)));
}

bool read_exactly(int descriptor, void* into, std::size_t bytes) {
  return bytes == 0 || recv(descriptor, into, bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes);
}

// One export of 1 MiB in memory; one connection at a time.
class FakeServer {
 public:
  explicit FakeServer(std::string path) : path_(std::move(path)) { start(); }
  ~FakeServer() { kill(); }

  void start() {
    ::unlink(path_.c_str());
    listener_ = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(listen(listener_, 4), 0);
    thread_ = std::thread(&FakeServer::run, this, listener_);
  }
  void kill() {
    shutdown(listener_, SHUT_RDWR);
    if (int connection = connection_.load(); connection >= 0) shutdown(connection, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }

  std::atomic<bool> hold_answers{false};
  std::atomic<bool> stall{false};
  std::atomic<uint32_t> answer_error{0};  // to the next request only
  std::atomic<int> requests{0};
  std::mutex mutex;
  std::vector<std::string> names;       // export names, one per connection
  std::vector<uint64_t> write_offsets;  // in the order of arrival
  std::string memory = std::string(1 << 20, '\0');

 private:
  void run(int listener) {
    for (;;) {
      int connection = accept(listener, nullptr, nullptr);
      if (connection < 0) return;
      connection_ = connection;
      if (shake_hands(connection)) {
        while (serve_one(connection)) {
        }
      }
      connection_ = -1;
      close(connection);
    }
  }

  bool shake_hands(int connection) {
    std::string greeting = "NBDMAGICIHAVEOPT";
    put(greeting, 3, 2);
    send(connection, greeting.data(), greeting.size(), MSG_NOSIGNAL);
    unsigned char fixed[20];
    if (!read_exactly(connection, fixed, sizeof fixed)) return false;
    std::string data(big_endian(fixed + 16, 4), '\0');
    if (!read_exactly(connection, data.data(), data.size())) return false;
    std::size_t length = big_endian(reinterpret_cast<unsigned char*>(data.data()), 4);
    {
      std::lock_guard lock(mutex);
      names.push_back(data.substr(4, length));
    }
    std::string reply;
    for (auto [type, bytes] : {std::pair(3, 12), std::pair(1, 0)}) {
      put(reply, 0x0003e889045565a9, 8);
      put(reply, 7, 4);
      put(reply, static_cast<uint64_t>(type), 4);
      put(reply, static_cast<uint64_t>(bytes), 4);
      if (bytes == 0) continue;
      put(reply, 0, 2);
      put(reply, memory.size(), 8);
      put(reply, 1 | 4 | 64, 2);
    }
    return send(connection, reply.data(), reply.size(), MSG_NOSIGNAL) > 0;
  }

  bool serve_one(int connection) {
    unsigned char request[28];
    if (!read_exactly(connection, request, sizeof request)) return false;
    uint64_t type = big_endian(request + 6, 2);
    uint64_t offset = big_endian(request + 16, 8);
    std::size_t length = big_endian(request + 24, 4);
    if (type == 1) {
      if (!read_exactly(connection, memory.data() + offset, length)) return false;
      std::lock_guard lock(mutex);
      write_offsets.push_back(offset);
    }
    ++requests;
    if (stall) {
      std::string first;
      put(first, 0x67446698, 4);
      put(first, 0, 4);
      put(first, 1, 8);  // the cookie of the first request
      usleep(200'000);   // the sender has filled the socket by then
      if (send(connection, first.data(), first.size(), MSG_NOSIGNAL) <= 0) return false;
      while (stall) usleep(5000);
    }
    if (hold_answers) return true;
    std::string reply;
    put(reply, 0x67446698, 4);
    uint32_t error = answer_error.exchange(0);
    put(reply, error, 4);
    reply.append(reinterpret_cast<char*>(request + 8), 8);
    if (type == 0 && error == 0) reply.append(memory, offset, length);
    return send(connection, reply.data(), reply.size(), MSG_NOSIGNAL) > 0;
  }

  std::string path_;
  int listener_ = -1;
  std::atomic<int> connection_{-1};
  std::thread thread_;
};

struct Answers : PipelineEvents {
  void answered(const Request& request, void*, int error,
                std::span<const std::byte> data) override {
    std::lock_guard lock(mutex);
    errors.push_back(error);
    offsets.push_back(request.offset);
    last_data.assign(reinterpret_cast<const char*>(data.data()), data.size());
    if (then > 0) {
      --then;
      pipeline->submit_from_answer({Command::kFlush}, nullptr);
    }
    changed.notify_all();
  }
  void connection_changed(const std::string&) override {}
  bool wait_for(std::size_t count) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(20), [&] { return errors.size() >= count; });
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int> errors;
  std::vector<uint64_t> offsets;
  std::string last_data;
  int then = 0;  // answers that lead to another request
  Pipeline* pipeline = nullptr;
};

class PipelineTest : public testing::Test {
 protected:
  PipelineTest() : path_(testing::TempDir() + "pipeline-" + std::to_string(getpid()) + ".sock") {}
  ~PipelineTest() override { std::filesystem::remove(path_); }

  void open() {
    auto opened = Pipeline::open({path_, "v1", true, "", 5, 1 << 20}, answers_);
    ASSERT_TRUE(opened.is_ok()) << opened.message();
    pipeline_ = std::move(*opened);
    pipeline_->start();
  }
  void write(uint64_t offset, char fill) {
    auto memory = std::make_shared<std::string>(4096, fill);
    Payload payload{std::as_bytes(std::span(*memory)), memory};
    pipeline_->submit({Command::kWrite, 0, 0, offset, 4096}, std::move(payload), nullptr);
  }
  void wait_for_requests(int count) {
    for (int i = 0; i < 2000 && server_->requests < count; ++i) usleep(5000);
    ASSERT_GE(server_->requests, count);
  }

  std::string path_;
  std::unique_ptr<FakeServer> server_ = std::make_unique<FakeServer>(path_);
  Answers answers_;
  std::unique_ptr<Pipeline> pipeline_;
};

TEST_F(PipelineTest, WritesAndReadsBack) {
  open();
  write(8192, 'x');
  ASSERT_TRUE(answers_.wait_for(1));
  pipeline_->submit({Command::kRead, 0, 0, 8192, 4096}, {}, nullptr);
  ASSERT_TRUE(answers_.wait_for(2));
  EXPECT_EQ(answers_.last_data, std::string(4096, 'x'));
}

TEST_F(PipelineTest, NobodyListeningIsAnErrorOfOpenOnly) {
  server_->kill();
  auto opened = Pipeline::open({path_, "v1", true, "", 5, 1 << 20}, answers_);
  EXPECT_EQ(opened.code(), Code::kUnavailable);
  server_->start();
}

TEST_F(PipelineTest, UnansweredRequestsAreSentAgainInOrder) {
  open();
  server_->hold_answers = true;
  for (uint64_t i = 0; i < 5; ++i) write(i * 4096, static_cast<char>('a' + i));
  wait_for_requests(5);
  server_->kill();
  server_->write_offsets.clear();
  for (uint64_t i = 5; i < 10; ++i) write(i * 4096, 'z');  // while it is away
  EXPECT_TRUE(answers_.errors.empty());
  server_->hold_answers = false;
  server_->start();
  ASSERT_TRUE(answers_.wait_for(10));
  EXPECT_EQ(std::set<int>(answers_.errors.begin(), answers_.errors.end()), std::set<int>{0});
  std::vector<uint64_t> expected;
  for (uint64_t i = 0; i < 10; ++i) expected.push_back(i * 4096);
  EXPECT_EQ(server_->write_offsets, expected);
}

TEST_F(PipelineTest, EachConnectionRaisesTheGenerationOfOneSession) {
  open();
  server_->kill();
  server_->start();
  write(0, 'x');
  ASSERT_TRUE(answers_.wait_for(1));
  std::lock_guard lock(server_->mutex);
  ASSERT_GE(server_->names.size(), 2u);
  std::string first = server_->names.front();
  std::string last = server_->names.back();
  EXPECT_EQ(first.substr(0, 3), "v1@");
  EXPECT_EQ(first.substr(first.find('/')), "/1");
  EXPECT_EQ(first.substr(0, first.find('/')), last.substr(0, last.find('/')));
  EXPECT_GT(std::stoi(last.substr(last.find('/') + 1)), 1);
}

TEST_F(PipelineTest, AnAnswerMayLeadToAnotherRequestAcrossALostConnection) {
  open();
  answers_.pipeline = pipeline_.get();
  answers_.then = 5;
  write(0, 'x');
  ASSERT_TRUE(answers_.wait_for(6));
  server_->hold_answers = true;
  write(4096, 'y');
  wait_for_requests(7);
  server_->kill();
  answers_.then = 3;
  server_->hold_answers = false;
  server_->start();
  ASSERT_TRUE(answers_.wait_for(10));
  EXPECT_EQ(std::set<int>(answers_.errors.begin(), answers_.errors.end()), std::set<int>{0});
}

// The sender is stuck, as the server takes nothing: the thread that receives must go on.
TEST_F(PipelineTest, TheThreadThatReceivesNeverWaitsForTheOneThatSends) {
  open();
  answers_.pipeline = pipeline_.get();
  answers_.then = 1;
  server_->hold_answers = true;
  pipeline_->submit({Command::kFlush}, {}, nullptr);
  wait_for_requests(1);
  server_->stall = true;  // with the next request it stops reading, and answers the first
  std::thread writer([this] {
    for (uint64_t i = 0; i < 2000; ++i) write((i % 16) * 4096, 'z');
  });
  EXPECT_TRUE(answers_.wait_for(1));
  // The answer was passed on, and its thread is back: another answer would be, too.
  {
    std::lock_guard lock(answers_.mutex);
    EXPECT_EQ(answers_.then, 0);
  }
  server_->hold_answers = false;
  server_->stall = false;
  writer.join();
  EXPECT_TRUE(answers_.wait_for(2));
}

TEST_F(PipelineTest, ADefiniteErrorIsPassedOn) {
  open();
  server_->answer_error = 28;
  write(0, 'x');
  ASSERT_TRUE(answers_.wait_for(1));
  EXPECT_EQ(answers_.errors, std::vector<int>{ENOSPC});
}

TEST_F(PipelineTest, AServerThatIsShuttingDownIsAskedAgain) {
  open();
  server_->answer_error = 108;
  write(0, 'x');
  ASSERT_TRUE(answers_.wait_for(1));
  EXPECT_EQ(answers_.errors, std::vector<int>{0});
  EXPECT_EQ(server_->requests, 2);
}

}  // namespace
}  // namespace cvol::nbd::client
