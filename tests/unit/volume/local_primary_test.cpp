#include "volumed/volume/local_primary.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "fake_engine.h"
#include "volumed/io/sim/sim_reactor.h"

namespace cvol::volume {
namespace {

constexpr uint64_t kSize = 8 * kMiB;

struct Aligned {
  explicit Aligned(std::size_t bytes)
      : data(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, bytes + kBlockBytes))) {}
  ~Aligned() { std::free(data); }
  std::byte* data;
};

class LocalPrimaryTest : public testing::Test {
 protected:
  LocalPrimaryTest() { make(kSize); }

  void make(uint64_t size) {
    LocalPrimary::Parts parts;
    parts.reactor = &reactor_;
    parts.engine = &engine_;
    parts.bounce = &bounce_;
    parts.metrics = metrics_;
    parts.replica = 7;
    parts.epoch = 3;
    parts.last_seq = 100;
    parts.size = size;
    device_ = std::make_unique<LocalPrimary>(std::move(parts));
  }

  static Task<void> keep(Task<Status> task, Status* into) { *into = co_await std::move(task); }
  Status run(Task<Status> task) {
    Status status(Code::kInternal, "not done");
    EXPECT_TRUE(reactor_.run(keep(std::move(task), &status)));
    return status;
  }
  void run_all() {
    while (!reactor_.done() && world_.step()) {
    }
    ASSERT_TRUE(reactor_.done());
  }
  std::vector<std::byte> bytes(std::size_t count, int value) {
    return std::vector<std::byte>(count, std::byte(value));
  }
  std::vector<std::byte> read(uint64_t offset, std::size_t count) {
    std::vector<std::byte> into(count, std::byte(0xee));
    EXPECT_TRUE(run(device_->read(offset, into)).is_ok());
    return into;
  }

  io::SimWorld world_{1};
  io::SimReactor reactor_{world_};
  FakeEngine engine_{reactor_};
  BouncePool bounce_{16 * kMiB};
  std::shared_ptr<VolumeMetrics> metrics_ = std::make_shared<VolumeMetrics>();
  std::unique_ptr<LocalPrimary> device_;
};

TEST_F(LocalPrimaryTest, HandsAlignedRequestsOnAsTheyAre) {
  Aligned memory(16 * kKiB);
  ASSERT_TRUE(run(device_->write(kBlockBytes, {memory.data, 16 * kKiB}, false)).is_ok());
  ASSERT_TRUE(run(device_->read(kBlockBytes, {memory.data, 16 * kKiB})).is_ok());
  ASSERT_EQ(engine_.calls.size(), 2u);
  EXPECT_EQ(engine_.calls[0].memory, memory.data);
  EXPECT_EQ(engine_.calls[0].seq, 101u);
  EXPECT_EQ(engine_.calls[1].memory, memory.data);
  EXPECT_EQ(metrics_->write_bytes.get(), 16 * kKiB);
  EXPECT_EQ(metrics_->read_operations.get(), 1u);
}

TEST_F(LocalPrimaryTest, KeepsTheRestOfABlockThatIsWrittenInPart) {
  ASSERT_TRUE(run(device_->write(0, bytes(3 * kBlockBytes, 1), false)).is_ok());
  ASSERT_TRUE(run(device_->write(100, bytes(50, 2), false)).is_ok());
  ASSERT_TRUE(run(device_->write(kBlockBytes - 10, bytes(20, 3), false)).is_ok());
  auto all = read(0, 3 * kBlockBytes);
  for (std::size_t i = 0; i < all.size(); ++i) {
    int expected = 1;
    if (i >= 100 && i < 150) expected = 2;
    if (i >= kBlockBytes - 10 && i < kBlockBytes + 10) expected = 3;
    ASSERT_EQ(all[i], std::byte(expected)) << i;
  }
}

TEST_F(LocalPrimaryTest, LosesNoneOfManyConcurrentWritesToOneBlock) {
  std::vector<Status> answers(64);
  std::vector<std::vector<std::byte>> data;
  for (int i = 0; i < 64; ++i) data.push_back(bytes(64, i + 1));
  for (std::size_t i = 0; i < 64; ++i)
    reactor_.start(keep(device_->write(64 * i, data[i], false), &answers[i]));
  run_all();
  auto block = read(0, kBlockBytes);
  for (std::size_t i = 0; i < kBlockBytes; ++i) ASSERT_EQ(block[i], std::byte(i / 64 + 1)) << i;
}

TEST_F(LocalPrimaryTest, AppliesOverlappingWritesInTheirOrderAndOthersTogether) {
  Aligned first(kChunkBytes), second(kChunkBytes);
  std::memset(first.data, 1, kChunkBytes);
  std::memset(second.data, 2, kChunkBytes);
  Status answers[3];
  reactor_.start(keep(device_->write(0, {first.data, kChunkBytes}, false), &answers[0]));
  reactor_.start(keep(device_->write(0, {second.data, kChunkBytes}, false), &answers[1]));
  reactor_.start(keep(device_->write(kMiB, {second.data, kChunkBytes}, false), &answers[2]));
  run_all();
  EXPECT_EQ(engine_.most_under_way, 2u);
  EXPECT_EQ(read(0, 1)[0], std::byte(2));
}

TEST_F(LocalPrimaryTest, SplitsZeroesIntoPiecesOfAGibibyteAtMost) {
  make(5 * kGiB);
  ASSERT_TRUE(run(device_->write_zeroes(kGiB / 2, 3 * kGiB, true, false)).is_ok());
  ASSERT_EQ(engine_.calls.size(), 4u);
  EXPECT_EQ(engine_.calls[0].length, kGiB / 2);
  EXPECT_EQ(engine_.calls[1].offset, kGiB);
  EXPECT_EQ(engine_.calls[1].length, kGiB);
  EXPECT_EQ(engine_.calls[3].length, kGiB / 2);
  EXPECT_TRUE(engine_.calls[0].keep_allocated);
}

TEST_F(LocalPrimaryTest, ZeroesTheEdgesOfAnUnalignedTrim) {
  ASSERT_TRUE(run(device_->write(0, bytes(5 * kBlockBytes, 9), false)).is_ok());
  ASSERT_TRUE(run(device_->trim(100, 4 * kBlockBytes, false)).is_ok());
  auto all = read(0, 5 * kBlockBytes);
  for (std::size_t i = 0; i < all.size(); ++i)
    ASSERT_EQ(all[i], std::byte(i < 100 || i >= 4 * kBlockBytes + 100 ? 9 : 0)) << i;
  EXPECT_EQ(metrics_->trim_operations.get(), 1u);
}

TEST_F(LocalPrimaryTest, CutsBlockStatusToTheRange) {
  Result<std::vector<Extent>> answer = Status(Code::kInternal, "");
  struct Keep {
    static Task<void> of(LocalPrimary* device, Result<std::vector<Extent>>* into) {
      *into = co_await device->block_status(100, 2 * kBlockBytes);
    }
  };
  ASSERT_TRUE(reactor_.run(Keep::of(device_.get(), &answer)));
  ASSERT_EQ(answer->size(), 2u);
  EXPECT_EQ((*answer)[0].length, kBlockBytes - 100);
  EXPECT_EQ((*answer)[1].length, kBlockBytes + 100);
}

TEST_F(LocalPrimaryTest, ReportsFailuresAndCountsThem) {
  engine_.fail_with = Status(Code::kNoSpace, "full");
  EXPECT_EQ(run(device_->write(0, bytes(10, 1), false)).code(), Code::kNoSpace);
  EXPECT_EQ(metrics_->errors.get(), 1u);
  EXPECT_EQ(metrics_->write_bytes.get(), 0u);
}

// Against a plain array: any mix of sizes and places.
TEST_F(LocalPrimaryTest, BehavesLikeAnArray) {
  std::mt19937 random(7);
  std::vector<std::byte> model(kSize);
  for (int round = 0; round < 400; ++round) {
    const uint64_t offset = random() % (kSize - 1);
    const uint64_t most = std::min<uint64_t>(kSize - offset, round % 10 == 0 ? 3 * kMiB : 20000);
    const uint64_t length = 1 + random() % most;
    switch (random() % 4) {
      case 0:
        ASSERT_EQ(read(offset, length),
                  std::vector<std::byte>(model.begin() + static_cast<long>(offset),
                                         model.begin() + static_cast<long>(offset + length)));
        break;
      case 1:
        ASSERT_TRUE(run(device_->trim(offset, length, false)).is_ok());
        std::fill_n(model.begin() + static_cast<long>(offset), length, std::byte(0));
        break;
      default: {
        auto data = bytes(length, static_cast<int>(random() % 255 + 1));
        ASSERT_TRUE(run(device_->write(offset, data, false)).is_ok());
        std::copy(data.begin(), data.end(), model.begin() + static_cast<long>(offset));
      }
    }
  }
}

}  // namespace
}  // namespace cvol::volume
