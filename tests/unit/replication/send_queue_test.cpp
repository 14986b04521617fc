#include "replication/node/send_queue.h"

#include <gtest/gtest.h>

namespace cvol::replication {
namespace {

std::vector<std::byte> bytes(std::size_t count, int from) {
  std::vector<std::byte> made(count);
  for (std::size_t i = 0; i < count; ++i) made[i] = static_cast<std::byte>(from + i * 7);
  return made;
}

void take(SendQueue& queue, std::vector<std::byte>& into) {
  for (const iovec& part : queue.front()) {
    const auto* data = static_cast<const std::byte*>(part.iov_base);
    into.insert(into.end(), data, data + part.iov_len);
  }
  queue.drop();
}

TEST(SendQueue, KeepsOrderWhileMoreIsAppendedBehindTheFront) {
  SendQueue queue;
  std::vector<std::byte> sent, got;
  const std::size_t sizes[] = {1,
                               64,
                               SendQueue::kBlockBytes - 65,
                               1,
                               3 * SendQueue::kBlockBytes + 5,
                               (SendQueue::kMostParts + 2) * SendQueue::kBlockBytes,
                               100};
  int from = 0;
  for (const std::size_t size : sizes) {
    const auto data = bytes(size, ++from);
    queue.append(data);
    sent.insert(sent.end(), data.begin(), data.end());
    // What is shown stays as it is, and what comes now is no part of it.
    std::size_t shown = 0;
    for (const iovec& part : queue.front()) shown += part.iov_len;
    const auto late = bytes(33, ++from);
    queue.append(late);
    sent.insert(sent.end(), late.begin(), late.end());
    EXPECT_EQ(queue.bytes(), sent.size() - got.size());
    const std::size_t before = queue.bytes();
    queue.drop();
    EXPECT_EQ(queue.bytes(), before - shown);
    got.insert(got.end(), sent.begin() + static_cast<std::ptrdiff_t>(got.size()),
               sent.begin() + static_cast<std::ptrdiff_t>(got.size() + shown));
    std::vector<std::byte> rest;
    while (!queue.empty()) take(queue, rest);
    EXPECT_TRUE(std::equal(rest.begin(), rest.end(),
                           sent.begin() + static_cast<std::ptrdiff_t>(got.size())));
    got.insert(got.end(), rest.begin(), rest.end());
  }
  EXPECT_EQ(got, sent);
}

}  // namespace
}  // namespace cvol::replication
