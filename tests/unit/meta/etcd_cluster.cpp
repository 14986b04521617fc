#include "tests/unit/meta/etcd_cluster.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

namespace cvol::meta {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kPatience = 60s;

// Ports that nobody has at the moment.
std::vector<int> free_ports(std::size_t count) {
  std::vector<int> sockets;
  std::vector<int> ports;
  while (ports.size() < count) {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(socket, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0)
      std::abort();
    sockets.push_back(socket);
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int socket : sockets) ::close(socket);
  return ports;
}

std::string url(int port) {
  return "http://127.0.0.1:" + std::to_string(port);
}

}  // namespace

EtcdCluster::EtcdCluster(int members, EtcdTls tls)
    : tls_(std::move(tls)), members_(static_cast<std::size_t>(members)) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    if (start_all()) return;
  }
  ADD_FAILURE() << "etcd does not start; is it installed?";
}

EtcdCluster::~EtcdCluster() {
  for (int i = 0; i < static_cast<int>(members_.size()); ++i) kill(i);
  std::filesystem::remove_all(folder_);
}

bool EtcdCluster::start_all() {
  for (int i = 0; i < static_cast<int>(members_.size()); ++i) kill(i);
  if (!folder_.empty()) std::filesystem::remove_all(folder_);
  // In memory if possible: etcd syncs a lot.
  std::string folder =
      (::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp") + std::string("/cvol-etcd-XXXXXX");
  if (::mkdtemp(folder.data()) == nullptr) return false;
  folder_ = folder;
  const std::vector<int> ports = free_ports(2 * members_.size());
  for (std::size_t i = 0; i < members_.size(); ++i) {
    members_[i].client_port = ports[2 * i];
    members_[i].peer_port = ports[2 * i + 1];
  }
  for (int i = 0; i < static_cast<int>(members_.size()); ++i) launch(i);
  return await_all();
}

std::string EtcdCluster::client_url(int port) const {
  return (tls_.wanted() ? "https" : "http") + std::string("://127.0.0.1:") + std::to_string(port);
}

void EtcdCluster::launch(int member) {
  std::string all;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    all += (i == 0 ? "m" : ",m") + std::to_string(i) + "=" + url(members_[i].peer_port);
  }
  const Member& own = members_[static_cast<std::size_t>(member)];
  const std::string name = "m" + std::to_string(member);
  const std::string log = folder_ + "/" + name + ".log";
  std::vector<std::string> words = {"etcd",
                                    "--name=" + name,
                                    "--data-dir=" + folder_ + "/" + name,
                                    "--listen-client-urls=" + client_url(own.client_port),
                                    "--advertise-client-urls=" + client_url(own.client_port),
                                    "--listen-peer-urls=" + url(own.peer_port),
                                    "--initial-advertise-peer-urls=" + url(own.peer_port),
                                    "--initial-cluster-token=" + folder_,
                                    "--initial-cluster=" + all};
  if (tls_.wanted()) {
    words.push_back("--client-cert-auth");
    words.push_back("--trusted-ca-file=" + tls_.ca);
    words.push_back("--cert-file=" + tls_.cert);
    words.push_back("--key-file=" + tls_.key);
  }
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int file = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(file, 1);
    ::dup2(file, 2);
    ::execvp("etcd", arguments.data());
    ::_exit(127);
  }
  members_[static_cast<std::size_t>(member)].pid = pid;
}

bool EtcdCluster::alive(int member) {
  Member& own = members_[static_cast<std::size_t>(member)];
  if (own.pid > 0 && ::waitpid(own.pid, nullptr, WNOHANG) == own.pid) own.pid = 0;
  return own.pid > 0;
}

// False: no answer.
bool EtcdCluster::ask_status(int member, etcdserverpb::StatusResponse& response) const {
  EtcdOptions options;
  options.endpoints = {endpoint(member)};
  options.tls = tls_;
  options.call_time = 1s;
  auto endpoints = EtcdEndpoints::make(options);
  if (!endpoints) return false;
  EtcdCall call{"ask for the status"};
  call.need_leader = false;
  return (*endpoints)
      ->call(call,
             [&](EtcdEndpoint& to, grpc::ClientContext& context) {
               return to.maintenance->Status(&context, {}, &response);
             })
      .status.is_ok();
}

bool EtcdCluster::await_all() {
  const auto until = Clock::now() + kPatience;
  for (int i = 0; i < static_cast<int>(members_.size());) {
    etcdserverpb::StatusResponse response;
    if (!alive(i) || Clock::now() > until) return false;
    if (ask_status(i, response) && response.leader() != 0) {
      ++i;
    } else {
      std::this_thread::sleep_for(50ms);
    }
  }
  return true;
}

std::string EtcdCluster::endpoint(int member) const {
  return "127.0.0.1:" + std::to_string(members_[static_cast<std::size_t>(member)].client_port);
}

std::vector<std::string> EtcdCluster::endpoints(int first) const {
  std::vector<std::string> all;
  const int count = static_cast<int>(members_.size());
  for (int i = 0; i < count; ++i) all.push_back(endpoint((first + i) % count));
  return all;
}

int EtcdCluster::leader() const {
  int found = -1;
  EXPECT_TRUE(eventually([&] {
    for (int i = 0; i < static_cast<int>(members_.size()); ++i) {
      etcdserverpb::StatusResponse response;
      if (ask_status(i, response) && response.leader() == response.header().member_id()) found = i;
    }
    return found >= 0;
  }));
  return found;
}

void EtcdCluster::kill(int member) {
  Member& own = members_[static_cast<std::size_t>(member)];
  if (own.pid <= 0) return;
  ::kill(own.pid, SIGKILL);
  ::waitpid(own.pid, nullptr, 0);
  own.pid = 0;
}

void EtcdCluster::restart(int member) {
  launch(member);
  EXPECT_TRUE(await_all());
}

void EtcdCluster::forget_all(int member) {
  std::filesystem::remove_all(folder_ + "/m" + std::to_string(member));
}

void EtcdCluster::pause(int member) {
  const pid_t pid = members_[static_cast<std::size_t>(member)].pid;
  ::kill(pid, SIGSTOP);
  ::waitpid(pid, nullptr, WUNTRACED);  // all of its threads have stopped
}

void EtcdCluster::resume(int member) {
  ::kill(members_[static_cast<std::size_t>(member)].pid, SIGCONT);
}

void EtcdCluster::compact() {
  auto endpoints = EtcdEndpoints::make(patient_options(this->endpoints()));
  etcdserverpb::StatusResponse status;
  ASSERT_TRUE(ask_status(0, status));
  const EtcdOutcome done =
      (*endpoints)->call({"compact"}, [&](EtcdEndpoint& to, grpc::ClientContext& context) {
        etcdserverpb::CompactionRequest request;
        request.set_revision(status.header().revision());
        etcdserverpb::CompactionResponse response;
        return to.kv->Compact(&context, request, &response);
      });
  ASSERT_TRUE(done.status.is_ok()) << done.status.message();
}

EtcdOptions patient_options(std::vector<std::string> endpoints) {
  EtcdOptions options;
  options.endpoints = std::move(endpoints);
  options.connect_time = 2s;
  options.attempt_time = 10s;
  options.call_time = 30s;
  return options;
}

std::unique_ptr<MetadataStore> open_or_die(EtcdOptions options) {
  Result<std::unique_ptr<MetadataStore>> opened = Status(Code::kUnavailable, "not tried");
  EXPECT_TRUE(eventually([&] {
    opened = open_etcd_store(options);
    return opened.code() != Code::kUnavailable;
  }));
  EXPECT_TRUE(opened.is_ok()) << opened.message();
  if (!opened) std::abort();
  return std::move(*opened);
}

bool eventually(const std::function<bool()>& holds) {
  const auto until = Clock::now() + kPatience;
  while (!holds()) {
    if (Clock::now() > until) return false;
    std::this_thread::sleep_for(20ms);
  }
  return true;
}

CommitResult commit_until_answered(MetadataStore& store, const Transaction& transaction) {
  CommitResult result;
  EXPECT_TRUE(eventually([&] {
    auto done = store.commit(transaction);
    if (!done) {
      EXPECT_EQ(done.code(), Code::kUnavailable) << done.message();
      return false;
    }
    result = *done;
    return true;
  }));
  return result;
}

WatchCallback Recorder::callback() {
  return [this](const std::vector<WatchEvent>& events) {
    std::unique_lock lock(mutex_);
    events_.insert(events_.end(), events.begin(), events.end());
    changed_.notify_all();
    changed_.wait(lock, [this] { return !held_; });
  };
}

void Recorder::hold() {
  std::lock_guard lock(mutex_);
  held_ = true;
}

void Recorder::release() {
  std::lock_guard lock(mutex_);
  held_ = false;
  changed_.notify_all();
}

std::vector<WatchEvent> Recorder::await(std::size_t count) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kPatience, [&] { return events_.size() >= count; });
  return events_;
}

}  // namespace cvol::meta
