// Crash states: a workload runs on a recording disk, and at every step of it the states that a
// power loss could leave are built and opened: none, all, every prefix of the unsynced writes, each
// one dropped, each one alone, random subsets, torn at 512 bytes and at 4 KiB. In every state each
// block holds what was acknowledged, or a write that was under way, and never a mix; nothing leaks;
// opening twice changes nothing; and what is kept for replication is as ReplicationModel says. The
// moment between the commits to the two copies of the chunk table is one of the steps. I1, I9, I12.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "tests/sim/block_model.h"
#include "tests/sim/punch_check.h"
#include "tests/sim/replication_model.h"
#include "tests/sim/sim_disk.h"
#include "volumed/base/log.h"

namespace cvol::sim {
namespace {

constexpr uint64_t kBlocks = 256;  // the smallest volume

enum class OpKind { kWrite, kZero, kKeep, kFlush };

struct Operation {
  OpKind kind;
  uint64_t first;
  uint64_t count;
};

// Memory of one operation; several may be under way.
class Aligned {
 public:
  explicit Aligned(uint64_t blocks)
      : at_(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, blocks * kBlockBytes))),
        blocks_(blocks) {}
  ~Aligned() { std::free(at_); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  std::byte* block(uint64_t index) { return at_ + index * kBlockBytes; }
  std::span<std::byte> all() { return {at_, blocks_ * kBlockBytes}; }

 private:
  std::byte* at_;
  uint64_t blocks_;
};

store::FormatOptions small_format() {
  store::FormatOptions format;
  format.journal_bytes = store::kMinJournalBytes;
  format.capacity_bytes = 2 * kMiB;
  return format;
}

store::EngineOptions small_options() {
  store::EngineOptions options;
  options.idle_after = 300 * io::kMicrosecond;  // destage joins in early
  options.keep_free_bytes = 0;                  // and what it frees is punched
  options.give_back_after = 50 * io::kMicrosecond;
  return options;
}

// Opens crash states in a world of its own and checks them against a model.
class Examiner {
 public:
  // True if the state is as it must be.
  bool examine(const std::map<std::string, io::SimImage>& files, const SimDisk::TableContent& table,
               const SimDisk::TableContent& table2, const BlockModel& model,
               const ReplicationModel& kept_model, bool twice) {
    ++states_;
    io::SimWorld world(states_);
    world.faults.disk_low = world.faults.disk_high = 0;
    world.faults.helper_low = world.faults.helper_high = 0;
    store::EngineOptions options;
    options.destage_when_idle = false;
    options.journal_depth = 1;
    SimDisk disk(world, small_format(), options);
    disk.load(files, table, table2);
    std::vector<uint64_t> values;
    if (!open_and_read(disk, model, values)) return false;
    Kept kept;
    if (!check_kept(disk, model, kept_model, values, &kept)) return false;
    if (!twice) return true;
    disk.close();
    std::vector<uint64_t> again;
    if (!open_and_read(disk, model, again)) return false;
    EXPECT_EQ(values, again) << "opening twice changed something";
    Kept kept_again;
    if (!check_kept(disk, model, kept_model, values, &kept_again)) return false;
    EXPECT_TRUE(kept == kept_again) << "opening twice changed what is kept for replication";
    // And once more after everything was destaged.
    Status status;
    disk.run(destage(&disk, &status));
    EXPECT_TRUE(status.is_ok()) << status.message();
    disk.engine().check_invariants();
    EXPECT_EQ(world.files.at("/disk/chunks")->writes_into_holes, 0u)
        << "what was promised had no space";
    std::vector<uint64_t> destaged;
    disk.run(read(&disk, &destaged));
    EXPECT_EQ(values, destaged) << "destage changed something";
    Kept kept_destaged;
    if (!check_kept(disk, model, kept_model, values, &kept_destaged)) return false;
    EXPECT_TRUE(kept == kept_destaged) << "destage changed what is kept for replication";
    return values == again && values == destaged && kept == kept_again && kept == kept_destaged;
  }
  uint64_t states() const { return states_; }

 private:
  bool open_and_read(SimDisk& disk, const BlockModel& model, std::vector<uint64_t>& values) {
    if (!disk.open()) {
      ADD_FAILURE() << disk.failure().message();
      return false;
    }
    disk.engine().check_invariants();
    EXPECT_EQ(disk.table().content, disk.table2().content) << "the copies are not level";
    disk.run(read(&disk, &values));
    if (values.size() != kBlocks) return false;
    for (uint64_t block = 0; block < kBlocks; ++block) {
      if (model.allows(block, values[block])) continue;
      ADD_FAILURE() << "block " << block << " holds " << values[block];
      return false;
    }
    return true;
  }
  static bool check_kept(SimDisk& disk, const BlockModel& model, const ReplicationModel& kept_model,
                         const std::vector<uint64_t>& values, Kept* kept) {
    disk.run(ask_kept(&disk.engine(), 1, 0, kept));
    return kept_model.check(*kept, 0, kBlocks,
                            [&](uint64_t block) { return model.touched(block, values[block]); });
  }
  static Task<void> destage(SimDisk* disk, Status* status) {
    *status = co_await disk->engine().destage_all();
  }
  static Task<void> read(SimDisk* disk, std::vector<uint64_t>* values) {
    Aligned memory(kBlocks);
    const Status status = co_await disk->engine().read(1, 0, memory.all());
    EXPECT_TRUE(status.is_ok()) << status.message();
    if (!status) co_return;
    for (uint64_t block = 0; block < kBlocks; ++block) {
      const std::optional<uint64_t> value = block_value(memory.block(block), block);
      EXPECT_TRUE(value.has_value()) << "block " << block << " is torn or foreign";
      if (!value.has_value()) co_return;
      values->push_back(*value);
    }
  }

  uint64_t states_ = 0;
};

// Runs operations on a recording disk and examines crash states at every step.
class Recorder {
 public:
  Recorder(uint64_t seed, Examiner& examiner, uint64_t random_states)
      : world_(seed), examiner_(examiner), random_states_(random_states), model_(kBlocks) {
    world_.faults.disk_high = 150 * io::kMicrosecond;
    world_.faults.helper_high = 100 * io::kMicrosecond;
    disk_ = std::make_unique<SimDisk>(world_, small_format(), small_options());
    EXPECT_TRUE(disk_->format() && disk_->open()) << disk_->failure().message();
    EXPECT_TRUE(disk_->run(create(disk_.get())));
    EXPECT_TRUE(disk_->run(put_state()));
    disk_->table2().before_commit = [this] { examine_between_commits(); };
  }

  uint64_t punched_places() const { return punches_.punched_places(); }

  // Starts the operations, `depth` at once, and examines until all are done and destage rests.
  bool run(const std::vector<Operation>& operations, uint64_t depth) {
    operations_ = &operations;
    next_ = 0;
    for (uint64_t i = 0; i < depth; ++i) disk_->node().start(client());
    uint64_t quiet_steps = 400;
    while (quiet_steps > 0) {
      if (disk_->node().done() && --quiet_steps == 0) break;
      if (!world_.step()) break;
      if (!examine_if_new()) return false;
    }
    return true;
  }

 private:
  static Task<void> create(SimDisk* disk) {
    Random random(5);
    Result<store::ReplicaInfo> made = co_await disk->engine().create_replica(
        Uuid::make(random), Uuid::make(random), kBlocks * kBlockBytes);
    EXPECT_TRUE(made && made->number == 1);
  }

  Task<void> put_state() {
    const std::string state = "state " + std::to_string(++states_);
    kept_model_.begin_put(state);
    const Status status = co_await disk_->engine().put_replica_state(1, state);
    EXPECT_TRUE(status.is_ok()) << status.message();
    kept_model_.end_put(state);
    ++changes_;
  }

  // Seqs do not always rise.
  uint64_t next_seq() {
    const uint64_t seq = seq_ > 0 && random_.chance(1, 4) ? 1 + random_.below(seq_) : ++seq_;
    kept_model_.used(seq);
    return seq;
  }

  void note_commit_point() {
    const uint64_t seq = std::min(seq_, kept_model_.noted() + random_.below(3));
    kept_model_.note(seq, disk_->node().now());
    disk_->engine().note_commit_point(1, seq);
    ++changes_;
  }

  Task<void> client() {
    while (next_ < operations_->size()) {
      const Operation operation = (*operations_)[next_++];
      if (operation.kind == OpKind::kFlush || model_.busy(operation.first, operation.count))
        continue;  // flush: everything acknowledged is durable already
      if (random_.chance(1, 5)) co_await put_state();
      if (random_.chance(1, 4)) note_commit_point();
      if (model_.busy(operation.first, operation.count)) continue;
      const uint64_t value = operation.kind == OpKind::kWrite ? ++values_ : 0;
      const uint64_t seq = next_seq();
      const io::Nanoseconds begun = disk_->node().now();
      Aligned memory(operation.count);
      for (uint64_t i = 0; i < operation.count; ++i) {
        fill_block(memory.block(i), operation.first + i, value);
        model_.begin(operation.first + i, value, seq);
      }
      Status status;
      const uint64_t offset = operation.first * kBlockBytes;
      if (operation.kind == OpKind::kWrite) {
        status = co_await disk_->engine().append_write(1, 1, seq, offset, memory.all());
      } else {
        status = co_await disk_->engine().append_zero(
            1, 1, seq, offset, operation.count * kBlockBytes, operation.kind == OpKind::kKeep);
      }
      EXPECT_TRUE(status.is_ok()) << status.message();
      for (uint64_t i = 0; i < operation.count; ++i) model_.acknowledge(operation.first + i, value);
      kept_model_.answered(seq, begun);
      ++changes_;
    }
  }

  struct Pending {
    std::string path;
    const io::SimWrite* write;
  };

  // A step is worth examining if what is unsynced, committed or acknowledged has changed.
  bool examine_if_new() {
    if (!between_commits_good_) return false;
    std::vector<Pending> pending;
    uint64_t print = changes_ * 1000003 + commits();
    for (const auto& [path, file] : world_.files) {
      for (const auto& write : file->pending()) {
        pending.push_back({path, write.get()});
        print = print * 31 + write->number * 2 + (write->completed ? 1 : 0);
      }
      print = print * 31 + file->size() + file->hole_bytes();
    }
    if (print == last_print_) return true;
    last_print_ = print;
    return examine_window(pending);
  }

  // The first copy of the table has a commit, the second one not yet.
  void examine_between_commits() {
    std::vector<Pending> pending;
    for (const auto& [path, file] : world_.files) {
      for (const auto& write : file->pending()) pending.push_back({path, write.get()});
    }
    between_commits_good_ = between_commits_good_ && examine_window(pending);
  }

  uint64_t commits() const {
    const auto meta = disk_->table().content.find(store::meta_key());
    const auto state = disk_->table().content.find(store::replica_state_key(1));
    return (meta == disk_->table().content.end() ? 0 : std::hash<std::string>{}(meta->second)) +
           (state == disk_->table().content.end() ? 0 : std::hash<std::string>{}(state->second));
  }

  using Keep = std::function<bool(const io::SimWrite&, uint64_t sector)>;

  bool examine_window(const std::vector<Pending>& pending) {
    const auto all = [](const io::SimWrite&, uint64_t) { return true; };
    const auto none = [](const io::SimWrite&, uint64_t) { return false; };
    if (!examine(none, true)) return false;
    if (pending.empty()) return true;
    if (!examine(all, true)) return false;
    for (std::size_t i = 0; i < pending.size(); ++i) {
      const io::SimWrite* one = pending[i].write;
      const auto prefix = [&](const io::SimWrite& write, uint64_t) {
        for (std::size_t k = 0; k <= i; ++k) {
          if (pending[k].write == &write) return true;
        }
        return false;
      };
      const auto dropped = [&](const io::SimWrite& write, uint64_t) { return &write != one; };
      const auto alone = [&](const io::SimWrite& write, uint64_t) { return &write == one; };
      const uint64_t sectors = one->live.size();
      const uint64_t cut = random_.below(sectors);
      const auto torn = [&](const io::SimWrite& write, uint64_t sector) {
        return &write != one || sector < cut;
      };
      const auto torn_page = [&](const io::SimWrite& write, uint64_t sector) {
        return &write != one || sector / 8 != cut / 8;
      };
      if (!examine(prefix, false) || !examine(dropped, false) || !examine(alone, false) ||
          !examine(torn, false) || !examine(torn_page, false)) {
        return false;
      }
    }
    for (uint64_t i = 0; i < random_states_; ++i) {
      const uint64_t odds = random_.below(101);
      const auto subset = [&](const io::SimWrite&, uint64_t) { return random_.below(100) < odds; };
      if (!examine(subset, i == 0)) return false;
    }
    return true;
  }

  bool examine(const Keep& keep, bool twice) {
    std::map<std::string, io::SimImage> images;
    for (const auto& [path, file] : world_.files) images[path] = file->crash_image(keep);
    return examiner_.examine(images, disk_->table().content, disk_->table2().content, model_,
                             kept_model_, twice);
  }

  io::SimWorld world_;
  Examiner& examiner_;
  uint64_t random_states_;
  Random random_{99};
  std::unique_ptr<SimDisk> disk_;
  PunchCheck punches_{world_, [this]() -> SimDisk& { return *disk_; }};
  BlockModel model_;
  ReplicationModel kept_model_;
  uint64_t states_ = 0;
  const std::vector<Operation>* operations_ = nullptr;
  std::size_t next_ = 0;
  uint64_t seq_ = 0;
  uint64_t values_ = 0;
  uint64_t changes_ = 0;
  uint64_t last_print_ = 0;
  bool between_commits_good_ = true;
};

// CVOL_CRASH_SCALE below 1 takes a part of both tests, for builds that run slowly.
double scale() {
  const char* text = std::getenv("CVOL_CRASH_SCALE");
  if (text != nullptr) return std::strtod(text, nullptr);
  return std::getenv("CVOL_LONG") != nullptr ? 20 : 1;
}

TEST(CrashStates, every_sequence_of_up_to_three_operations) {
  log::set_level("off");
  const std::vector<Operation> kinds = {
      {OpKind::kWrite, 3, 2},   // within a chunk
      {OpKind::kWrite, 14, 4},  // over a chunk's border
      {OpKind::kWrite, 0, 16},  // a whole chunk
      {OpKind::kWrite, 8, 40},  // ends and whole chunks
      {OpKind::kZero, 0, 16},   // frees a chunk
      {OpKind::kZero, 4, 6},    // a part of one
      {OpKind::kKeep, 2, 20},   // zeroes that keep their space
  };
  Examiner examiner;
  uint64_t sequences = 0;
  std::vector<std::vector<Operation>> all;
  for (const Operation& a : kinds) {
    all.push_back({a});
    for (const Operation& b : kinds) {
      all.push_back({a, b});
      for (const Operation& c : kinds) all.push_back({a, b, c});
    }
  }
  const double part = std::min(1.0, scale());
  Random pick(1);
  for (const std::vector<Operation>& sequence : all) {
    SCOPED_TRACE("sequence " + std::to_string(sequences));
    ++sequences;
    if (part < 1 && !pick.chance(static_cast<uint64_t>(part * 1000), 1000)) continue;
    Recorder recorder(sequences, examiner, 16);
    ASSERT_TRUE(recorder.run(sequence, 1 + sequences % 2));
  }
  std::printf("%.0f %% of %lu sequences, %lu crash states\n", part * 100, sequences,
              examiner.states());
  EXPECT_GE(static_cast<double>(examiner.states()), 20000 * (part < 1 ? part / 2 : 1));
}

TEST(CrashStates, random_workloads) {
  log::set_level("off");
  Examiner examiner;
  uint64_t punched = 0;
  const auto seeds = std::max<uint64_t>(1, static_cast<uint64_t>(34 * scale()));
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    std::vector<Operation> operations;
    for (int i = 0; i < 40; ++i) {
      uint64_t count = 1 + random.below(random.chance(1, 4) ? 60 : 8);
      const uint64_t first = random.below(kBlocks - count);
      const uint64_t kind = random.below(8);
      operations.push_back(
          {kind < 6 ? OpKind::kWrite : (kind < 7 ? OpKind::kZero : OpKind::kKeep), first, count});
    }
    Recorder recorder(seed, examiner, 6);
    ASSERT_TRUE(recorder.run(operations, 1 + seed % 6));
    punched += recorder.punched_places();
  }
  std::printf("%lu seeds, %lu crash states, %lu places punched\n", seeds, examiner.states(),
              punched);
  EXPECT_GT(punched, seeds);
  EXPECT_GE(examiner.states(), std::min<uint64_t>(60000, 1500 * seeds));
}

}  // namespace
}  // namespace cvol::sim
