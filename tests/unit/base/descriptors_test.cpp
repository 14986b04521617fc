#include "volumed/base/descriptors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "volumed/base/result.h"
#include "volumed/base/waiting_requests.h"

namespace cvol {
namespace {

TEST(Descriptors, TheSoftLimitIsRaised) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low{std::min<rlim_t>(256, before.rlim_max), before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  const uint64_t raised = raise_descriptor_limit();
  EXPECT_EQ(raised, std::min<uint64_t>(before.rlim_max, 1'048'576));
  EXPECT_EQ(descriptor_limit(), raised);
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST(Descriptors, BudgetsStayBelowHalfOfTheLimit) {
  for (const uint64_t limit : {256u, 1024u, 4096u, 65536u, 1'048'576u}) {
    for (const uint64_t shards : {1u, 4u}) {
      const ConnectionBudgets budgets = connection_budgets(limit, shards);
      // HTTP twice: metrics, and the Docker plugin.
      const uint64_t all =
          budgets.nbd_tcp + budgets.nbd_unix + 2 * budgets.http + budgets.replication * shards;
      EXPECT_LT(all, limit / 2) << limit;
      EXPECT_GE(std::min(budgets.replication, budgets.http), 4u) << limit;
    }
  }
}

TEST(Descriptors, AShortageIsBusyAndNoFaultOfADisk) {
  for (const int error : {EMFILE, ENFILE, ENOMEM, ENOBUFS}) {
    EXPECT_TRUE(means_shortage(error));
    EXPECT_EQ(status_from_errno(error, "open x").code(), Code::kBusy) << error;
  }
  EXPECT_FALSE(means_shortage(EIO));
  EXPECT_EQ(status_from_errno(EIO, "open x").code(), Code::kIo);
  EXPECT_NE(status_from_errno(EMFILE, "open x").message().find("LimitNOFILE"), std::string::npos);
}

TEST(WaitingRequests, TheOldestIsKnownInWhateverOrderTheyEnd) {
  WaitingRequests book;
  EXPECT_EQ(book.look().count, 0u);
  EXPECT_EQ(book.look().oldest_since, 0);
  auto first = std::make_unique<WaitingRequests::Mark>(book, 10);
  auto second = std::make_unique<WaitingRequests::Mark>(book, 20);
  auto third = std::make_unique<WaitingRequests::Mark>(book, 30);
  EXPECT_EQ(book.look().count, 3u);
  EXPECT_EQ(book.look().oldest_since, 10);
  second.reset();
  EXPECT_EQ(book.look().oldest_since, 10);
  first.reset();
  EXPECT_EQ(book.look().oldest_since, 30);
  third.reset();
  EXPECT_EQ(book.look().count, 0u);
  EXPECT_EQ(book.look().oldest_since, 0);
}

}  // namespace
}  // namespace cvol
