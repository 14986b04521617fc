#include "tests/sim/damaged_disk.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "volumed/store/format.h"

namespace cvol::sim {
namespace {

std::span<std::byte> memory(uint64_t blocks) {
  static std::byte* const all =
      static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kReplicaBlocks * kBlockBytes));
  return {all, blocks * kBlockBytes};
}

Task<void> keep_status(Task<Status> task, Status* into) {
  *into = co_await std::move(task);
}

Status wait(SimDisk& disk, Task<Status> task) {
  Status status(Code::kInternal, "not done");
  EXPECT_TRUE(disk.run(keep_status(std::move(task), &status)));
  return status;
}

uint64_t next_seq() {
  static uint64_t seq = 0;
  return ++seq;
}

Task<void> create_all(SimDisk* disk, bool* made) {
  Random random(77);
  for (uint64_t i = 0; i < kReplicas; ++i) {
    Result<store::ReplicaInfo> info = co_await disk->engine().create_replica(
        Uuid::make(random), Uuid::make(random), kReplicaBlocks * kBlockBytes);
    *made = info.is_ok() && info->number == i + 1;
    if (!*made) co_return;
  }
}

DamagedDisk::Bytes bytes_of(const io::SimImage& image) {
  DamagedDisk::Bytes bytes(image.size);
  image.read(0, bytes);
  return bytes;
}

}  // namespace

Status write(SimDisk& disk, Contents& contents, uint64_t replica, uint64_t first, uint64_t count,
             uint64_t number) {
  const uint64_t value = Contents::value(replica, number);
  for (uint64_t i = 0; i < count; ++i)
    fill_block(memory(count).data() + i * kBlockBytes, first + i, value);
  const auto number_of = static_cast<store::ReplicaNumber>(replica);
  const Status status = wait(disk, disk.engine().append_write(number_of, 1, next_seq(),
                                                              first * kBlockBytes, memory(count)));
  for (uint64_t i = 0; i < count && status; ++i) contents.at({replica, first + i}) = value;
  return status;
}

Status zero(SimDisk& disk, Contents& contents, uint64_t replica, uint64_t first, uint64_t count) {
  const auto number_of = static_cast<store::ReplicaNumber>(replica);
  const Status status =
      wait(disk, disk.engine().append_zero(number_of, 1, next_seq(), first * kBlockBytes,
                                           count * kBlockBytes, false));
  for (uint64_t i = 0; i < count && status; ++i) contents.at({replica, first + i}) = 0;
  return status;
}

Status destage(SimDisk& disk) {
  return wait(disk, disk.engine().destage_all());
}

bool create_replicas(SimDisk& disk) {
  bool made = false;
  return disk.run(create_all(&disk, &made)) && made;
}

void read_all(SimDisk& disk, Contents& contents, Outcome& outcome) {
  for (uint64_t replica = 1; replica <= kReplicas; ++replica) {
    const auto number = static_cast<store::ReplicaNumber>(replica);
    const bool whole = wait(disk, disk.engine().read(number, 0, memory(kReplicaBlocks))).is_ok();
    for (uint64_t block = 0; block < kReplicaBlocks; ++block) {
      const std::byte* at = memory(kReplicaBlocks).data() + (whole ? block * kBlockBytes : 0);
      if (!whole) {
        const Status status =
            wait(disk, disk.engine().read(number, block * kBlockBytes, memory(1)));
        if (!status) {
          EXPECT_EQ(status.code(), Code::kDamaged) << status.message();
          outcome.errors.insert({replica, block});
          continue;
        }
      }
      if (block_value(at, block) != contents.at({replica, block}))
        outcome.wrong.insert({replica, block});
    }
  }
}

DamagedDisk::DamagedDisk(std::filesystem::path folder) : folder_(std::move(folder)) {
  build();
  find_batches();
}

store::FormatOptions DamagedDisk::format() const {
  store::FormatOptions format;
  format.journal_bytes = store::kMinJournalBytes;
  format.capacity_bytes = 4 * kMiB;
  return format;
}

store::TableOpener DamagedDisk::opener() const {
  return [folder = folder_](const std::string& path, store::TableOpen how) {
    return store::open_rocksdb_table(folder / std::filesystem::path(path).filename(), how);
  };
}

void DamagedDisk::build() {
  io::SimWorld world(1);
  store::EngineOptions options;
  options.destage_when_idle = false;
  SimDisk disk(world, format(), options);
  if (!folder_.empty()) disk.use_tables(opener());
  ASSERT_TRUE(disk.format() && disk.open()) << disk.failure().message();
  ASSERT_TRUE(create_replicas(disk));
  uint64_t number = 0;
  for (uint64_t replica = 1; replica <= kReplicas; ++replica) {
    ASSERT_TRUE(write(disk, contents_, replica, 0, 48, ++number).is_ok());  // whole chunks
    ASSERT_TRUE(write(disk, contents_, replica, 70, 5, ++number).is_ok());
    ASSERT_TRUE(write(disk, contents_, replica, 100 + replica, 1, ++number).is_ok());
    ASSERT_TRUE(destage(disk).is_ok());
    ASSERT_TRUE(zero(disk, contents_, replica, 16, 16).is_ok());
    ASSERT_TRUE(write(disk, contents_, replica, 3, 2, ++number).is_ok());
    ASSERT_TRUE(destage(disk).is_ok());
  }
  // A table file of several blocks, and a log of many commits, most of which hold the newest record
  // of some chunk.
  for (uint64_t i = 0; i < (folder_.empty() ? 0 : 300); ++i) {
    ASSERT_TRUE(write(disk, contents_, 1 + i % kReplicas, i / kReplicas * 16 % 256 + 9, 1, ++number)
                    .is_ok());
    ASSERT_TRUE(destage(disk).is_ok());
    if (i != 100) continue;
    // RocksDB writes its log to a table file when it opens. (With four of them it would compact,
    // and it waits a second whenever that meets damage.)
    disk.close();
    ASSERT_TRUE(disk.open()) << disk.failure().message();
  }
  // These stay in the journal.
  for (uint64_t i = 0; i < 12; ++i) {
    const uint64_t replica = 1 + i % kReplicas;
    ASSERT_TRUE(write(disk, contents_, replica, 5 + i * 9, 1 + i % 4, ++number).is_ok());
  }
  ASSERT_TRUE(write(disk, contents_, 2, 160, 32, ++number).is_ok());
  ASSERT_TRUE(write(disk, contents_, 1, 200, 1, ++number).is_ok());
  ASSERT_TRUE(write(disk, contents_, 3, 201, 2, ++number).is_ok());
  last_write_ = {{3, 201}, {3, 202}};
  table_ = disk.table().content;
  disk.close();
  for (const auto& [path, file] : world.files)
    files_[path.substr(path.rfind('/') + 1)] = bytes_of(file->current());
  if (folder_.empty()) return;
  for (const char* copy : {"table", "table2"}) {
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / copy)) {
      std::ifstream stream(entry.path(), std::ios::binary);
      const std::string text((std::istreambuf_iterator<char>(stream)), {});
      const auto* at = reinterpret_cast<const std::byte*>(text.data());
      files_[std::string(copy) + "/" + entry.path().filename().string()] =
          Bytes(at, at + text.size());
    }
  }
}

void DamagedDisk::find_batches() {
  const Bytes& journal = files_.at("journal");
  Result<store::Label> label = store::decode_label(files_.at("label"));
  ASSERT_TRUE(label);
  std::map<uint64_t, Batch> by_lsn;
  uint64_t tail = 0;
  for (uint64_t at = kBlockBytes; at < journal.size(); at += kBlockBytes) {
    const std::span<const std::byte> block(journal.data() + at, kBlockBytes);
    Result<store::BatchHeader> header = store::peek_batch(block, label->journal);
    const uint64_t ring = journal.size() / kBlockBytes - 1;
    if (!header || (header->position % ring + 1) * kBlockBytes != at) continue;
    const uint64_t payload = at + header->header_blocks * kBlockBytes;
    by_lsn[header->lsn] = {at, payload, payload + header->payload_blocks * kBlockBytes};
    tail = std::max(tail, header->tail_lsn);
  }
  for (const auto& [lsn, batch] : by_lsn) {
    if (lsn >= tail) batches_.push_back(batch);
  }
  ASSERT_EQ(batches_.size(), 15u);
}

std::optional<BlockName> DamagedDisk::block_at(const std::string& file, uint64_t offset) const {
  if (file != "journal" && file != "chunks") return std::nullopt;
  const std::byte* at = files_.at(file).data() + offset / kBlockBytes * kBlockBytes;
  uint64_t words[2];  // as fill_block() writes them
  std::memcpy(words, at, sizeof words);
  if (words[1] == 0 || words[0] >= kReplicaBlocks || block_value(at, words[0]) != words[1])
    return std::nullopt;
  return BlockName{words[1] % 16, words[0]};
}

void DamagedDisk::put_files(SimDisk& disk, const std::string& name, const Bytes& damaged) {
  std::map<std::string, io::SimImage> images;
  if (!folder_.empty()) {
    for (const char* copy : {"table", "table2"}) {
      std::filesystem::remove_all(folder_ / copy);
      std::filesystem::create_directory(folder_ / copy);
    }
  }
  for (const auto& [file, good] : files_) {
    const Bytes& bytes = file == name ? damaged : good;
    if (file.starts_with("table")) {
      std::ofstream(folder_ / file, std::ios::binary)
          .write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
      continue;
    }
    io::SimImage& image = images["/disk/" + file];
    image.write(0, bytes);
  }
  disk.load(images, table_, table_);
  if (!folder_.empty()) disk.use_tables(opener());
}

Outcome DamagedDisk::open_with(const std::string& name, const Bytes& damaged, bool twice) {
  io::SimWorld world(2);
  world.faults.disk_low = world.faults.disk_high = 0;
  world.faults.helper_low = world.faults.helper_high = 0;
  store::EngineOptions options;
  options.destage_when_idle = false;
  SimDisk disk(world, format(), options);
  put_files(disk, name, damaged);
  Outcome outcome;
  (void)disk.open();
  outcome.opened = disk.failure();
  if (!outcome.opened) return outcome;
  disk.engine().check_invariants();
  read_all(disk, contents_, outcome);
  if (!twice) return outcome;
  EXPECT_TRUE(destage(disk).is_ok());
  disk.close();
  Outcome again;
  EXPECT_TRUE(disk.open()) << disk.failure().message();
  read_all(disk, contents_, again);
  EXPECT_EQ(again.errors, outcome.errors) << "opening again changed what is readable";
  EXPECT_EQ(again.wrong, outcome.wrong);
  return outcome;
}

}  // namespace cvol::sim
