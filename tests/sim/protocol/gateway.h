// Gateway: a front end with its clients. It looks for the primary, opens a connection there, keeps
// requests that are not answered and sends them again, in order, on the next connection (R12).
//
// Writes that overlap are not on their way at the same time (`overlapping` allows it; then nothing
// is sent again, and what a lost connection leaves unanswered stays so: delivery would be at least
// once, and no order could be promised). Every result goes to the history.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/sim/protocol/history.h"
#include "tests/sim/protocol/node.h"

namespace cvol::sim {

class Gateway : public Network::End {
 public:
  using Operation = Packet::Operation;
  struct Settings {
    uint64_t blocks = 16;
    Nanoseconds retry = 100 * kMillisecond;  // mean, before it looks for the primary again
    Nanoseconds patience = 5 * kSecond;      // without an answer: a new connection
    bool overlapping = false;
  };
  // What the workers do.
  struct Work {
    uint64_t workers = 0;
    Nanoseconds think = 10 * kMillisecond;           // mean, between an answer and the next request
    uint64_t reads = 50, zeroes = 10, partial = 10;  // percent; the rest are writes
    uint64_t hot_blocks = 0;                         // all requests go to that many; 0: to all
    uint64_t most_blocks = 4;
  };
  struct Ground {
    World& world;
    Network& network;
    Register& record;
    History& history;
    const Directory& directory;
  };
  Gateway(const Ground& on, int index, const Settings& settings);

  // --- the attachment ---
  void open_session(uint64_t generation);
  bool attached() const { return session_ != 0; }
  uint64_t session() const { return session_; }
  int index() const { return index_; }

  // --- requests ---
  // Unique: what the `at`th block of this write of this session holds.
  static uint64_t value_of(uint64_t session, uint64_t number, uint64_t at) {
    return (session << 40) | (number << 8) | at;
  }
  uint64_t submit(Operation operation, BlockRange range);
  bool is_answered(uint64_t number) const { return !requests_.contains(number); }
  std::size_t unanswered() const { return requests_.size(); }
  const std::vector<Block>& last_read() const { return last_read_; }
  Outcome last_outcome() const { return last_outcome_; }
  void work(const Work& work);
  void rest() { work_.workers = 0; }
  // Submission of the oldest request that waits for its answer.
  Nanoseconds oldest() const;
  uint64_t answered() const { return answered_; }
  Nanoseconds longest_stall() const { return longest_stall_; }

  // --- faults ---
  void stop() { stopped_ = true; }
  void go_on();
  // A new connection to the same primary, while requests are on their way.
  void reconnect();

  void on_record(const Record& record);
  void on_packet(int from, const PacketPointer& packet) override;
  void on_link(int peer, bool up, uint64_t process) override;
  bool alive() const override { return true; }
  uint64_t process() const override { return 1; }
  std::string describe() const;

 private:
  struct Request {
    Operation operation = Operation::kRead;
    BlockRange range;
    std::vector<Block> blocks;
    std::vector<History::Stamp> begins;
    Nanoseconds since = 0;
    uint64_t sent = 0;
    int worker = -1;
  };
  enum class State { kIdle, kLooking, kOpening, kReady };

  void handle(const std::function<void()>& what);
  void look_again();
  void connect();
  void send(uint64_t number, Request& request);
  void on_opened(const Packet& packet);
  void on_answer(const Packet& packet);
  void complete(uint64_t number, const Packet& packet);
  void drop_all();
  void next(int worker, uint64_t session);
  bool writes_overlap(BlockRange range) const;
  void watch(uint64_t connection);

  World& world_;
  Network& network_;
  Register& register_;
  History& history_;
  const Directory& directory_;
  const int index_;
  const Settings settings_;
  Work work_;

  State state_ = State::kIdle;
  uint64_t session_ = 0;
  uint64_t connection_ = 0;
  int target_ = -1;
  Record record_;
  bool looking_ = false;
  std::map<uint64_t, Request> requests_;
  uint64_t next_number_ = 1;
  std::vector<Block> last_read_;
  Outcome last_outcome_ = Outcome::kDone;
  Nanoseconds last_heard_ = 0;
  uint64_t answered_ = 0;
  Nanoseconds longest_stall_ = 0;
  bool stopped_ = false;
  std::deque<std::function<void()>> waiting_;
};

}  // namespace cvol::sim
