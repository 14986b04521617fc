// History: what clients saw, and whether it is linearizable block by block (I1, I2, I9, I11).
//
// Every written block has a value of its own. A request over k blocks is k operations of one
// interval; a write without an answer has an open end, or ends when its session had ended: nothing
// of it may appear later (I11). With unique values linearizability is decided by zones (Gibbons and
// Korach, 1997): the zone of a value reaches from the first end to the last begin of the operations
// that wrote or read it (forward), or the other way round if they all overlap (backward). A history
// is not linearizable exactly if a read ends before its write begins, two forward zones overlap, or
// a backward zone lies inside a forward one. check_read() is an online form that fails early.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace cvol::sim {

class History {
 public:
  // Stamps order all begins and ends; every call takes the next one.
  using Stamp = uint64_t;
  static constexpr Stamp kOpen = ~Stamp{0};

  explicit History(uint64_t blocks) : blocks_(blocks) {}

  void begin_write(uint64_t block, uint64_t value, uint64_t session);
  void end_write(uint64_t block, uint64_t value);
  // The client was told that it never was.
  void never_was(uint64_t block, uint64_t value);
  Stamp begin_read() { return ++clock_; }
  // A complaint, or nothing.
  std::string end_read(uint64_t block, uint64_t value, Stamp begin);
  // The same, without that anything was read.
  std::string could_read(uint64_t block, uint64_t value, Stamp begin);
  // All sessions up to this generation have ended: what they left unanswered has happened or not.
  void end_sessions(uint64_t generation);

  // Checks all blocks; the complaint about the first that is not linearizable, or nothing.
  std::string check() const;
  std::string describe(uint64_t block) const;
  uint64_t writes() const { return writes_; }  // acknowledged blocks
  uint64_t reads() const { return reads_; }

 private:
  struct Read {
    Stamp begin, end;
  };
  struct Write {
    uint64_t value = 0;
    uint64_t session = 0;
    Stamp begin = 0, end = kOpen;
    bool answered = false;
    bool never = false;
    std::vector<Read> reads;
  };
  struct BlockHistory {
    std::vector<Write> writes;                 // by begin
    std::map<uint64_t, std::size_t> by_value;  // index into writes
  };
  struct Zone {
    Stamp low, high;
    bool forward;
    uint64_t value;
  };

  Write* find(uint64_t block, uint64_t value);
  std::string check_read(uint64_t block, const Write& write, Stamp begin) const;
  std::string check(uint64_t block) const;

  std::vector<BlockHistory> blocks_;
  Stamp clock_ = 1;
  uint64_t ended_ = 0;  // sessions up to this generation
  uint64_t writes_ = 0, reads_ = 0;
};

}  // namespace cvol::sim
