// Copier: the source's side of one resync (R10): what differs is found, copied piece by piece under
// range locks, and compared.
//
// Candidates are the chunks that are newer here than the target's commit point, newer there, or
// there on one side only. Of those that both have, blocks whose checksums agree are not sent: for
// that, both sides read them. When everything was looked at, all candidates are compared once more
// by the checksums that both engines keep for their blocks, which reads nothing: what a disk makes
// of a block afterwards is found by reads and scrubs, as with any other write. It adapts: several
// pieces at once while nobody uses the volume; while somebody does, small ones, one after the
// other, with pauses of five times what a piece took.
//
// Threading: the shard's thread. Ends by itself; stop() makes it end soon.
#pragma once

#include <map>
#include <vector>

#include "replication/core/driver.h"
#include "replication/wire/frame.h"
#include "volumed/base/task.h"
#include "volumed/io/scope.h"

namespace cvol::replication {

class ReplicaHost;

class Copier {
 public:
  Copier(ReplicaHost& host, const ReplicaId& target, uint64_t join, Seq commit_point);
  ~Copier();

  Task<void> run();
  void stop();
  // The host ends: what was begun has ended, and what was not never will.
  void abandon();
  bool over() const { return over_ && running_ == 0; }
  bool has_piece(OpId op) const { return under_way_.contains(op); }

  // Of core: the piece's range is locked; the piece is over without having been copied.
  void piece_locked(OpId op, BlockRange range);
  void piece_ended(OpId op, bool ok);

 private:
  struct Candidate {
    BlockRange range;
    bool gone = false;    // there only; here it reads as zeroes
    bool absent = false;  // here only: there is nothing to be compared
  };
  enum class Action : uint8_t { kNone, kData, kZero };

  Task<bool> find_candidates();
  Task<bool> copy_all(const std::vector<Candidate>& pieces);
  Task<void> copy_piece(OpId op, Candidate piece);
  Task<bool> ask_target(wire::FrameType type, BlockRange range, wire::Digested& theirs);
  Task<bool> copy_locked(Candidate piece);
  static std::vector<Candidate> wider(const std::vector<Candidate>& pieces);
  Task<bool> check_locked(Candidate piece);
  bool is_same(uint64_t block, const wire::Digested& ours, const wire::Digested& theirs,
               std::size_t at) const;
  static std::vector<Action> decide(const Candidate& piece, const std::byte* data,
                                    const wire::Digested& ours, const wire::Digested& theirs);
  Task<bool> read_around_damage(BlockRange range, std::span<std::byte> into, wire::Digested& theirs,
                                std::vector<bool>& unread);
  Task<bool> send_run(BlockRange run, Action action, const std::byte* data,
                      const uint64_t* checksums);
  void begin_piece(const Candidate& piece);
  std::size_t window() const;
  bool client_is_busy() const;
  void tell();

  ReplicaHost& host_;
  const ReplicaId target_;
  const uint64_t join_;
  const Seq commit_point_;
  std::vector<Candidate> candidates_;
  std::map<OpId, Candidate> under_way_;
  const Candidate* beginning_ = nullptr;
  std::vector<Candidate> unequal_;  // found when all was compared; copied again
  io::WaitList piece_done_;
  uint64_t looked_bytes_ = 0;
  uint64_t total_bytes_ = 0;
  bool verifying_ = false;
  bool failed_ = false;
  bool stopping_ = false;
  bool over_ = false;
  uint32_t running_ = 0;  // copy_piece tasks
  int64_t piece_took_ = 0;
  int64_t started_ = 0;
};

}  // namespace cvol::replication
