// MirroredTable: a chunk table in two copies, so that damage to either costs nothing.
//
// Every commit goes to both copies, one after the other, and leaves its number in a ring of marks
// in each. So at open each copy says how many commits it has, and a commit that got lost on the
// way (a log whose tail was dropped, a file that was forgotten) shows as a gap or a missing end.
// A copy that cannot be opened, that has a gap, or that lacks its meta record is bad: it is made
// anew from the other. One that lacks just the last commit is what a crash leaves: both are right,
// the newer one is used and the difference is copied. A copy is without its meta record from the
// first change of such work to its last, so a crash in the middle shows.
//
// Which copy is read: the first, or the newer one. If that turns out damaged in the middle of a
// scan, the scan goes on in the other, where it stopped: level copies hold the same.
//
// Mending happens with the first commit after open, when everything was read once. In later life a
// copy in which damage is met is left alone (it falls behind, and has no meta record any more): the
// next open makes it anew.
//
// Threading: as Table; verify() may run beside everything else.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "volumed/store/table.h"

namespace cvol::store {

class MirroredTable final : public Table {
 public:
  // Two new copies, `path` and `path`2. Nothing is in them before the first commit.
  static Result<std::unique_ptr<Table>> create(const TableOpener& opener, const std::string& path);
  // kDamaged if no copy can be used. A disk of an older version has no second copy: it gets one.
  static Result<std::unique_ptr<Table>> open(const TableOpener& opener, const std::string& path);

  Status commit(const TableBatch& batch) override;
  // The marks are not shown.
  Status scan_range(const std::string& prefix, const std::string& after,
                    const Visit& visit) override;
  // kDamaged if either copy is; the text says what happens next.
  Status verify() override;
  // Of both copies. One of them may have the commit that ended in kNoSpace: the same again.
  Status resume() override;

 private:
  enum class State {
    kLevel,   // has every commit
    kBehind,  // lacks the last one
    kBad,     // to be made anew
  };
  struct Copy {
    std::string path;
    std::unique_ptr<Table> table;  // may be nullptr if bad
    State state = State::kLevel;
    uint64_t commits = 0;
    Status why;  // it is bad
  };

  MirroredTable(TableOpener opener, const std::string& path);
  static Status inspect(Copy& copy);
  Status open_copies();
  Status compare();
  Status mend();
  Status level(Copy& target);
  void mark_bad(std::size_t index, const Status& why);
  Copy& source() { return copies_[source_]; }
  Copy& other() { return copies_[1 - source_]; }

  TableOpener opener_;
  std::array<Copy, 2> copies_;
  std::size_t source_ = 0;  // which copy is read
  uint64_t commits_ = 0;
  bool mended_ = false;
  bool proven_ = false;  // the source was read from first to last pair
  std::mutex mutex_;     // states, source_, and commits; not held while a scan visits
};

}  // namespace cvol::store
