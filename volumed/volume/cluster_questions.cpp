// What nodes ask each other beside replication: events.
#include <cvol/v1/nodes.pb.h>

#include <algorithm>

#include "volumed/volume/cluster.h"
#include "volumed/volume/cluster_register.h"

namespace cvol::volume {
namespace {

using std::chrono::microseconds;

constexpr io::Nanoseconds kAnswerPatience = io::kSecond;  // of one node
constexpr std::size_t kMostText = 4096;                   // of one event's message

std::string cut(const std::string& text) {
  return text.size() <= kMostText ? text : text.substr(0, kMostText);
}

}  // namespace

std::string answer_events(const EventLog& log, const v1::EventsQuestion& question) {
  EventFilter filter;
  filter.kind = question.kind();
  filter.subject = question.subject();
  filter.since = std::chrono::system_clock::time_point(
      std::chrono::seconds(std::clamp<int64_t>(question.since_seconds(), 0, int64_t{1} << 33)));
  v1::NodeAnswer answer;
  v1::EventsAnswer& told = *answer.mutable_events();
  told.set_last(question.after());
  std::vector<Event> events = log.after(question.after());
  if (!events.empty()) told.set_last(events.back().sequence);
  std::erase_if(events, [&](const Event& event) { return !filter.takes(event); });
  // The newest that fit: each costs some bytes beside its text.
  std::size_t bytes = 0, first = events.size();
  while (first > 0 && bytes < replication::wire::kMostToldBytes / 2) {
    const Event& event = events[--first];
    bytes += cut(event.message).size() + event.subject.size() + event.kind.size() + 64;
  }
  for (; first < events.size(); ++first) {
    const Event& event = events[first];
    auto& one = *told.add_events();
    one.set_sequence(event.sequence);
    one.set_microseconds(
        std::chrono::duration_cast<microseconds>(event.time.time_since_epoch()).count());
    one.set_kind(event.kind);
    one.set_subject(cut(event.subject));
    one.set_message(cut(event.message));
    one.set_node(event.node);
  }
  return answer.SerializeAsString();
}

std::vector<Event> read_events(std::string_view text, uint64_t* last) {
  v1::NodeAnswer answer;
  std::vector<Event> events;
  if (!answer.ParseFromArray(text.data(), static_cast<int>(text.size()))) return events;
  *last = std::max(*last, answer.events().last());
  for (const auto& one : answer.events().events()) {
    const auto time = std::clamp<int64_t>(one.microseconds(), 0, int64_t{1} << 53);
    events.push_back({one.sequence(), std::chrono::system_clock::time_point(microseconds(time)),
                      cut(one.kind()), cut(one.subject()), cut(one.message()), cut(one.node())});
  }
  return events;
}

std::string Cluster::answer_question(std::string_view text) {
  v1::NodeQuestion question;
  if (!question.ParseFromArray(text.data(), static_cast<int>(text.size()))) return "";
  if (question.has_events() && options_.events != nullptr)
    return answer_events(*options_.events, question.events());
  return "";
}

std::vector<Event> Cluster::events_of_others(const EventFilter& filter,
                                             std::map<std::string, uint64_t>& seen,
                                             std::vector<std::string>& silent) {
  std::vector<Event> all;
  const std::vector<ShardPart*> parts = this->parts();
  if (parts.empty()) return all;
  ShardPart* part = parts.front();
  for (const ClusterNode& node : nodes()) {
    auto id = Uuid::parse(node.record.id());
    if (node.record.id() == options_.node_id || !id) continue;
    v1::NodeQuestion question;
    uint64_t& last = seen[node.record.id()];
    question.mutable_events()->set_after(last);
    question.mutable_events()->set_kind(filter.kind);
    question.mutable_events()->set_subject(filter.subject);
    question.mutable_events()->set_since_seconds(
        std::chrono::duration_cast<std::chrono::seconds>(filter.since.time_since_epoch()).count());
    std::optional<std::string> told;
    if (node.alive) {
      told = part->shard->run<std::optional<std::string>>([&] {
        return part->exchange->ask({*id, 0}, question.SerializeAsString(), kAnswerPatience);
      });
    }
    if (!told) {
      silent.push_back(node.record.name());
      continue;
    }
    for (Event& event : read_events(*told, &last)) all.push_back(std::move(event));
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Event& a, const Event& b) { return a.time < b.time; });
  return all;
}

}  // namespace cvol::volume
