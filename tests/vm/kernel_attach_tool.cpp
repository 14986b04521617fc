// Stand-in for volumed in the guest: attaches one volume by kernel NBD and serves it from a file,
// with nothing else around it. kill -9 it and start it again: the device goes on.
//
//   kernel_attach_tool DIRECTORY IMAGE SIZE    attaches, prints the device, serves
// SIGUSR1 grows the volume to twice its size, SIGUSR2 ends one connection, SIGTERM detaches and
// ends.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "nbd/attach/attach.h"

namespace {

using cvol::Status;

uint64_t number(const unsigned char* from, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) value = value << 8 | from[i];
  return value;
}

bool receive(int descriptor, void* into, std::size_t bytes) {
  return bytes == 0 || recv(descriptor, into, bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes);
}

// One request of the transmission phase; false at the end of the connection.
bool serve_one(int descriptor, int image, std::vector<char>& data) {
  unsigned char request[28];
  if (!receive(descriptor, request, sizeof request)) return false;
  uint64_t type = number(request + 6, 2);
  off_t offset = static_cast<off_t>(number(request + 16, 8));
  std::size_t length = number(request + 24, 4);
  if (type == 2) return false;
  unsigned char reply[16] = {0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0};
  std::memcpy(reply + 8, request + 8, 8);
  bool good = true;
  if (type <= 1) data.resize(length);
  if (type == 0) good = pread(image, data.data(), length, offset) == static_cast<ssize_t>(length);
  if (type == 1) {
    if (!receive(descriptor, data.data(), length)) return false;
    good = pwrite(image, data.data(), length, offset) == static_cast<ssize_t>(length);
  }
  if (type == 4 || type == 6) {
    good = fallocate(image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                     static_cast<off_t>(length)) == 0;
  }
  if (!good) reply[7] = EIO;
  if (send(descriptor, reply, sizeof reply, MSG_NOSIGNAL) < 0) return false;
  return type != 0 || !good ||
         send(descriptor, data.data(), length, MSG_NOSIGNAL) == static_cast<ssize_t>(length);
}

std::mutex mutex;
std::vector<int> connections;

void serve(int descriptor, int image) {
  std::vector<char> data;
  while (serve_one(descriptor, image, data)) {
  }
  {
    std::lock_guard lock(mutex);
    std::erase(connections, descriptor);
  }
  close(descriptor);
}

void end_one_connection() {
  std::lock_guard lock(mutex);
  if (!connections.empty()) shutdown(connections.front(), SHUT_RDWR);
}

int fail(const Status& status) {
  std::fprintf(stderr, "kernel_attach_tool: %s\n", status.message().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  uint64_t size = std::strtoull(argv[3], nullptr, 10);
  int image = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (image < 0 || ftruncate(image, static_cast<off_t>(2 * size)) != 0) return 1;
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGUSR1, SIGUSR2}) sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, nullptr);

  cvol::attach::AttachOptions options;
  options.method = cvol::attach::Method::kKernel;
  options.run_dir = std::string(argv[1]) + "/run";
  options.state_dir = std::string(argv[1]) + "/state";
  options.serve = [image](const std::string&, int descriptor) {
    std::lock_guard lock(mutex);
    connections.push_back(descriptor);
    std::thread(serve, descriptor, image).detach();
    return Status::ok();
  };
  auto attacher = cvol::attach::Attacher::open(options);
  if (!attacher) return fail(attacher.status());
  if (auto found = (*attacher)->reconcile(); !found) return fail(found.status());
  auto device = (*attacher)->attach("v1", size);
  if (!device) return fail(device.status());
  std::printf("%s\n", device->path.c_str());
  std::fflush(stdout);
  for (;;) {
    int signal = 0;
    sigwait(&signals, &signal);
    if (signal == SIGUSR2) {
      end_one_connection();
      continue;
    }
    Status done =
        signal == SIGUSR1 ? (*attacher)->resize("v1", 2 * size) : (*attacher)->detach("v1");
    if (!done) fail(done);
    if (done && signal == SIGTERM) return 0;
  }
}
