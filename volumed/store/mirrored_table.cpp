#include "volumed/store/mirrored_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "volumed/base/assert.h"
#include "volumed/base/log.h"
#include "volumed/store/format.h"

namespace cvol::store {
namespace {

constexpr std::size_t kPagePairs = 4096;    // read at once when copies are compared
constexpr std::size_t kPiecePairs = 16384;  // of one commit while a copy is made

using Pair = std::pair<std::string, std::string>;

bool is_mark(std::string_view key) {
  uint32_t slot = 0;
  return parse_commit_mark_key(key, &slot);
}

// The pairs of a table one by one; nothing may commit to it meanwhile.
class Cursor {
 public:
  explicit Cursor(Table& table) : table_(table) {}

  // The current pair; nullptr at the end.
  Result<const Pair*> at() {
    if (next_ == page_.size() && !end_) CVOL_TRY(fill());
    const Pair* pair = next_ == page_.size() ? nullptr : &page_[next_];
    return pair;
  }
  void advance() { ++next_; }

 private:
  Status fill() {
    const std::string after = page_.empty() ? "" : page_.back().first;
    page_.clear();
    next_ = 0;
    const Status full(Code::kCancelled, "");
    Status status =
        table_.scan_range("", after, [&](std::string_view key, std::string_view value) -> Status {
          page_.emplace_back(key, value);
          return page_.size() < kPagePairs ? Status::ok() : full;
        });
    if (status.code() == Code::kCancelled) return Status::ok();
    end_ = true;
    return status;
  }

  Table& table_;
  std::vector<Pair> page_;
  std::size_t next_ = 0;
  bool end_ = false;
};

// Commits that `table` has, from its marks; kDamaged if one of those that should be there is not.
Result<uint64_t> count_commits(Table& table) {
  std::vector<uint64_t> marks;
  CVOL_TRY(table.scan_prefix(
      commit_mark_prefix(), [&](std::string_view key, std::string_view value) -> Status {
        uint32_t slot = 0;
        Result<uint64_t> number = decode_commit_mark(value);
        if (!number) return number.status();
        if (!parse_commit_mark_key(key, &slot) || *number == 0 || *number % kCommitMarks != slot)
          return Status(Code::kDamaged, "a commit mark is impossible");
        marks.push_back(*number);
        return Status::ok();
      }));
  const uint64_t last = marks.empty() ? 0 : *std::max_element(marks.begin(), marks.end());
  // Each is in its slot, so none is there twice. An old one is where a newer one should be.
  const auto newest = std::count_if(marks.begin(), marks.end(),
                                    [&](uint64_t mark) { return mark + kCommitMarks > last; });
  const uint64_t expected = std::min<uint64_t>(last, kCommitMarks);
  if (static_cast<uint64_t>(newest) != expected) {
    return Status(Code::kDamaged,
                  fmt::format("of the last {} of {} commits it has {}", expected, last, newest));
  }
  return last;
}

}  // namespace

MirroredTable::MirroredTable(TableOpener opener, const std::string& path)
    : opener_(std::move(opener)) {
  copies_[0].path = path;
  copies_[1].path = path + "2";
}

Result<std::unique_ptr<Table>> MirroredTable::create(const TableOpener& opener,
                                                     const std::string& path) {
  std::unique_ptr<MirroredTable> made(new MirroredTable(opener, path));
  for (Copy& copy : made->copies_) {
    Result<std::unique_ptr<Table>> table = opener(copy.path, TableOpen::kCreate);
    if (!table) return table.status();
    copy.table = std::move(*table);
  }
  made->mended_ = true;
  return std::unique_ptr<Table>(std::move(made));
}

Result<std::unique_ptr<Table>> MirroredTable::open(const TableOpener& opener,
                                                   const std::string& path) {
  std::unique_ptr<MirroredTable> made(new MirroredTable(opener, path));
  CVOL_TRY(made->open_copies());
  CVOL_TRY(made->compare());
  return std::unique_ptr<Table>(std::move(made));
}

// What there is to say about an opened copy without reading all of it.
Status MirroredTable::inspect(Copy& copy) {
  bool meta = false;
  CVOL_TRY(copy.table->scan_prefix(meta_key(), [&](std::string_view key, std::string_view) {
    meta = meta || key == meta_key();
    return Status::ok();
  }));
  if (!meta) return Status(Code::kDamaged, "it is unfinished: its meta record is missing");
  Result<uint64_t> commits = count_commits(*copy.table);
  if (!commits) return commits.status();
  copy.commits = *commits;
  return Status::ok();
}

Status MirroredTable::open_copies() {
  for (Copy& copy : copies_) {
    Result<std::unique_ptr<Table>> table = opener_(copy.path, TableOpen::kExisting);
    if (table) copy.table = std::move(*table);
    copy.why = table ? inspect(copy) : table.status();
    if (copy.why) continue;
    // Nothing is wrong with the copy itself then.
    if (copy.why.code() == Code::kUnsupported || copy.why.code() == Code::kNoSpace ||
        copy.why.code() == Code::kBusy)
      return copy.why;
    copy.state = State::kBad;
  }
  return Status::ok();
}

// Chooses the copy that is read, and says what is to be done about the other.
Status MirroredTable::compare() {
  if (copies_[0].state == State::kBad && copies_[1].state == State::kBad) {
    const bool io = copies_[0].why.code() == Code::kIo && copies_[1].why.code() == Code::kIo;
    return Status(
        io ? Code::kIo : Code::kDamaged,
        fmt::format("chunk table: {}: {}; the second copy: {}: {}; the disk is left as it "
                    "is: restore it from a replica or a backup",
                    copies_[0].path, copies_[0].why.message(), copies_[1].path,
                    copies_[1].why.message()));
  }
  if (copies_[0].state == State::kBad || copies_[1].state == State::kBad) {
    source_ = copies_[0].state == State::kBad ? 1 : 0;
  } else if (copies_[0].commits != copies_[1].commits) {
    source_ = copies_[0].commits > copies_[1].commits ? 0 : 1;
    const uint64_t missing = source().commits - other().commits;
    if (missing > 1) {
      other().state = State::kBad;
      other().why = Status(Code::kDamaged, fmt::format("it lacks the last {} commits", missing));
    } else {
      // A crash came between the two commits. Both copies are right, until one is not: the older
      // one must not be touched before the newer one is known to be readable.
      const Status readable =
          source().table->scan([](std::string_view, std::string_view) { return Status::ok(); });
      if (readable.code() == Code::kBusy) return readable;  // it says nothing of the copy
      if (readable) {
        proven_ = true;
        other().state = State::kBehind;
      } else {
        source().state = State::kBad;
        source().why = readable;
        source_ = 1 - source_;
      }
    }
  }
  commits_ = source().commits;
  if (other().state != State::kBad) return Status::ok();
  if (other().why.code() == Code::kNotFound) {
    log::warning("store", "a copy of the chunk table is missing; it will be made from the other",
                 {{"missing", other().path}, {"other", source().path}});
  } else {
    log::warning("store", "a copy of the chunk table is damaged; the other one is used",
                 {{"damaged", other().path}, {"why", other().why.message()}});
  }
  return Status::ok();
}

// With the first commit: makes the copies level.
Status MirroredTable::mend() {
  mended_ = true;
  if (other().state == State::kLevel) return Status::ok();
  if (!proven_) {
    const Status readable =
        source().table->scan([](std::string_view, std::string_view) { return Status::ok(); });
    if (readable.code() == Code::kBusy) {
      mended_ = false;
      return readable;
    }
    if (!readable) {
      return Status(Code::kDamaged, "both copies of the chunk table are damaged: " +
                                        readable.message() + "; " + other().why.message());
    }
  }
  Copy& target = other();
  Status status = Status::ok();
  if (target.state == State::kBehind) {
    TableBatch unfinished;
    unfinished.remove(meta_key());
    status = target.table->commit(unfinished);
  } else {
    target.table.reset();
    Result<std::unique_ptr<Table>> made = opener_(target.path, TableOpen::kReplace);
    status = made.status();
    if (made) target.table = std::move(*made);
  }
  if (status) status = level(target);
  if (!status) {
    // One copy serves as well as it did; the next open tries again.
    target.state = State::kBad;
    target.why = status;
    log::error("store", "a copy of the chunk table could not be made; the disk goes on with one",
               {{"path", target.path}, {"why", status.message()}});
    return Status::ok();
  }
  if (target.state == State::kBad) {
    log::warning("store", "a copy of the chunk table was made anew from the other",
                 {{"path", target.path}, {"from", source().path}});
  }
  target.state = State::kLevel;
  target.commits = commits_;
  return Status::ok();
}

// Copies the difference; the meta record and the marks together, last.
Status MirroredTable::level(Copy& target) {
  Cursor from(*source().table);
  Cursor to(*target.table);
  TableBatch piece;
  TableBatch last;
  while (true) {
    Result<const Pair*> right = from.at();
    if (!right) return right.status();
    Result<const Pair*> there = to.at();
    if (!there) return there.status();
    if (*right == nullptr && *there == nullptr) break;
    const int order = *right == nullptr   ? 1
                      : *there == nullptr ? -1
                                          : (*right)->first.compare((*there)->first);
    const std::string& key = order <= 0 ? (*right)->first : (*there)->first;
    TableBatch& batch = key == meta_key() || is_mark(key) ? last : piece;
    if (order > 0) {
      batch.remove(key);
    } else if (order < 0 || (*right)->second != (*there)->second) {
      batch.put(key, (*right)->second);
    }
    if (order <= 0) from.advance();
    if (order >= 0) to.advance();
    if (piece.changes.size() < kPiecePairs) continue;
    CVOL_TRY(target.table->commit(piece));
    piece.changes.clear();
  }
  if (!piece.changes.empty()) CVOL_TRY(target.table->commit(piece));
  return target.table->commit(last);
}

// The other copy alone counts from now on. Before anything was committed nothing is changed on the
// disk: mend() will do it, once the other copy has proved to be good.
void MirroredTable::mark_bad(std::size_t index, const Status& why) {
  Copy& copy = copies_[index];
  CVOL_ASSERT(copy.state == State::kLevel && copies_[1 - index].state == State::kLevel);
  copy.state = State::kBad;
  copy.why = why;
  source_ = 1 - index;
  proven_ = false;
  log::error("store", "a copy of the chunk table is damaged; the other one is used",
             {{"path", copy.path}, {"why", why.message()}});
  if (!mended_) return;
  TableBatch unfinished;
  unfinished.remove(meta_key());
  const Status told = copy.table->commit(unfinished);
  if (!told) log::warning("store", "it could not be marked", {{"why", told.message()}});
}

// A copy that fails is given up only if the other one has taken the commit.
Status MirroredTable::commit(const TableBatch& batch) {
  const std::lock_guard lock(mutex_);
  if (!mended_) CVOL_TRY(mend());
  TableBatch marked = batch;
  const uint64_t number = commits_ + 1;
  marked.put(commit_mark_key(static_cast<uint32_t>(number % kCommitMarks)),
             encode_commit_mark(number));
  Status failed = Status::ok();
  std::size_t failed_copy = 0;
  for (std::size_t i = 0; i < copies_.size(); ++i) {
    if (copies_[i].state == State::kBad) continue;
    const Status status = copies_[i].table->commit(marked);
    if (status) continue;
    const bool lone = !failed || copies_[1 - i].state == State::kBad;
    if (lone || (status.code() != Code::kDamaged && status.code() != Code::kIo)) return status;
    failed = status;
    failed_copy = i;
  }
  if (!failed) mark_bad(failed_copy, failed);
  commits_ = number;
  return Status::ok();
}

Status MirroredTable::scan_range(const std::string& prefix, const std::string& after,
                                 const Visit& visit) {
  std::string last = after;
  bool whole = true;
  while (true) {
    std::size_t reading = 0;
    {
      const std::lock_guard lock(mutex_);
      reading = source_;
    }
    bool stopped = false;  // by the visitor
    const Status status = copies_[reading].table->scan_range(
        prefix, last, [&](std::string_view key, std::string_view value) -> Status {
          last = key;
          if (is_mark(key)) return Status::ok();
          Status visited = visit(key, value);
          stopped = !visited.is_ok();
          return visited;
        });
    const std::lock_guard lock(mutex_);
    if (status) {
      if (prefix.empty() && after.empty() && whole && reading == source_) proven_ = true;
      return status;
    }
    // Descriptors that have run out say nothing of the copy.
    const bool passes = status.code() == Code::kUnavailable || status.code() == Code::kBusy;
    if (stopped || passes) return status;
    if (copies_[1 - reading].state != State::kLevel) {
      return Status(status.code(),
                    status.message() +
                        "; the disk is left as it is: restore it from a replica or a "
                        "backup");
    }
    if (copies_[reading].state == State::kLevel) mark_bad(reading, status);
    whole = false;
  }
}

Status MirroredTable::resume() {
  const std::lock_guard lock(mutex_);
  for (Copy& copy : copies_) {
    if (copy.state != State::kBad) CVOL_TRY(copy.table->resume());
  }
  return Status::ok();
}

Status MirroredTable::verify() {
  Status damage = Status::ok();
  for (std::size_t i = 0; i < copies_.size(); ++i) {
    Copy& copy = copies_[i];
    {
      const std::lock_guard lock(mutex_);
      if (copy.state == State::kBad) {
        damage = Status(Code::kDamaged, "chunk table " + copy.path + ": " + copy.why.message());
        continue;
      }
    }
    const Status status = copy.table->verify();
    if (status) continue;
    damage = status;
    const std::lock_guard lock(mutex_);
    const bool both = copy.state == State::kLevel && copies_[1 - i].state == State::kLevel;
    if (both && (status.code() == Code::kDamaged || status.code() == Code::kIo))
      mark_bad(i, status);
  }
  if (damage) return damage;
  return Status(damage.code(), damage.message() +
                                   "; a damaged copy is made anew from the other when the disk is "
                                   "opened again");
}

}  // namespace cvol::store
