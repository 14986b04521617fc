// What is particular to one etcd; several members: etcd_failover_test.cpp.
#include "volumed/meta/etcd_store.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/unit/meta/etcd_cluster.h"
#include "volumed/meta/etcd_list.h"
#include "volumed/meta/open_store.h"

namespace cvol::meta {
namespace {

using namespace std::chrono_literals;

TEST(EtcdEndpointsText, IsSplitOrRefused) {
  auto endpoints = parse_etcd_endpoints("127.0.0.1:2379,node-2:2379,[fd00::3]:1");
  ASSERT_TRUE(endpoints.is_ok()) << endpoints.message();
  EXPECT_EQ(*endpoints, (std::vector<std::string>{"127.0.0.1:2379", "node-2:2379", "[fd00::3]:1"}));
  for (const char* text : {"", ",", "a", "a:", ":1", "a:1,", "a:x", "a:70000", "http://a:2379"}) {
    EXPECT_EQ(parse_etcd_endpoints(text).code(), Code::kInvalidArgument) << text;
  }
}

TEST(EtcdPrefix, EndsBehindItsLastKey) {
  EXPECT_EQ(end_of_prefix("/a/"), "/a0");
  EXPECT_EQ(end_of_prefix("a\xff\xff"), "b");
  EXPECT_EQ(end_of_prefix("\xff"), std::string(1, '\0'));
  EXPECT_EQ(end_of_prefix(""), std::string(1, '\0'));
}

TEST(OpenStore, RefusesWhatIsNoStore) {
  for (const char* uri : {"", "rocksdb:", "etcd:", "etcd:host", "sqlite:/x"}) {
    EXPECT_EQ(open_store(uri).code(), Code::kInvalidArgument) << uri;
  }
}

TEST(EtcdStore, SaysWhichEndpointIsAway) {
  EtcdOptions options;
  options.endpoints = {"127.0.0.1:1"};
  options.call_time = 500ms;
  auto opened = open_etcd_store(options);
  EXPECT_EQ(opened.code(), Code::kUnavailable);
  EXPECT_NE(opened.message().find("127.0.0.1:1"), std::string::npos) << opened.message();
}

TEST(EtcdStore, RefusesTlsFilesThatItCannotRead) {
  EtcdTls tls;
  tls.ca = "/nonexistent/ca.pem";
  auto opened = open_store("etcd:127.0.0.1:1", tls);
  EXPECT_EQ(opened.code(), Code::kInvalidArgument);
  EXPECT_NE(opened.message().find(tls.ca), std::string::npos);
}

// A CA and a certificate of it for 127.0.0.1, in this folder.
EtcdTls make_certificates(const std::string& folder) {
  const std::string script =
      "cd " + folder +
      " && exec 2>openssl.log && "
      "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca && "
      "openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request -subj /CN=cvol && "
      "echo subjectAltName=IP:127.0.0.1 >names && "
      "openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names "
      "-out cert.pem";
  EXPECT_EQ(std::system(script.c_str()), 0);
  return {folder + "/ca.pem", folder + "/cert.pem", folder + "/key.pem"};
}

TEST(EtcdStore, SpeaksTlsWithACertificate) {
#ifdef _GLIBCXX_TSAN
  GTEST_SKIP() << "OpenSSL and gRPC's use of it are not built for the thread sanitizer";
#endif
  char folder[] = "/tmp/cvol-etcd-tls-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  {
    EtcdCluster cluster(1, make_certificates(folder));
    EtcdOptions options = patient_options(cluster.endpoints());
    options.tls = cluster.tls();
    auto store = open_or_die(options);
    EXPECT_TRUE(store->commit({{}, {{"/a", "one", 0}}}).is_ok());
    options.tls.cert = options.tls.key = "";  // nobody whom etcd knows
    options.call_time = 500ms;
    EXPECT_FALSE(open_etcd_store(options).is_ok());
  }
  std::filesystem::remove_all(folder);
}

TEST(EtcdStore, RefusesAClusterOfTwo) {
  EtcdCluster cluster(2);
  auto opened = open_etcd_store(patient_options(cluster.endpoints()));
  EXPECT_EQ(opened.code(), Code::kFailedPrecondition);
  EXPECT_NE(opened.message().find("worse than one"), std::string::npos) << opened.message();
}

TEST(EtcdStore, RefusesAnEndpointOfAnotherCluster) {
  EtcdCluster ours(1);
  EtcdCluster other(1);
  auto store = open_or_die(patient_options({ours.endpoint(0), other.endpoint(0)}));
  ASSERT_TRUE(store->commit({{}, {{"/a", "one", 0}}}).is_ok());
  ours.kill(0);
  // The first call may still meet the lost connection.
  Result<std::optional<Entry>> read = std::optional<Entry>();
  EXPECT_TRUE(eventually([&] {
    read = store->get("/a");
    return read.code() == Code::kFailedPrecondition;
  }));
  EXPECT_NE(read.message().find("another cluster"), std::string::npos) << read.message();
}

TEST(EtcdStore, ListsMoreThanAPage) {
  EtcdCluster cluster(1);
  auto store = open_or_die(patient_options(cluster.endpoints()));
  constexpr int kKeys = 300;
  for (int from = 0; from < kKeys; from += 100) {
    Transaction batch;
    for (int i = from; i < from + 100; ++i) {
      batch.changes.push_back({"/a/" + std::to_string(1000 + i), std::to_string(i), 0});
    }
    ASSERT_TRUE(store->commit(batch).is_ok());
  }
  auto entries = store->list("/a/");
  ASSERT_TRUE(entries.is_ok()) << entries.message();
  ASSERT_EQ(entries->size(), static_cast<std::size_t>(kKeys));
  for (int i = 0; i < kKeys; ++i) {
    EXPECT_EQ((*entries)[static_cast<std::size_t>(i)].value, std::to_string(i));
  }
}

TEST(EtcdStore, SaysThatAnOutcomeIsUnknownAndTakesTheSameAgain) {
  EtcdCluster cluster(1);
  EtcdOptions options;
  options.endpoints = cluster.endpoints();
  auto store = open_or_die(options);
  ASSERT_TRUE(eventually([&] { return store->get("/a").is_ok(); }));
  cluster.pause(0);
  const Transaction transaction{{{"/a", 0}}, {{"/a", "ours", 0}}};
  auto done = store->commit(transaction);
  EXPECT_EQ(done.code(), Code::kUnavailable) << done.message();
  cluster.resume(0);
  commit_until_answered(*store, transaction);  // applied now, or found to have been
  Result<std::optional<Entry>> entry = std::optional<Entry>();
  ASSERT_TRUE(eventually([&] {
    entry = store->get("/a");
    return entry.is_ok();
  }));
  ASSERT_TRUE(entry->has_value());
  EXPECT_EQ((*entry)->value, "ours");
}

TEST(EtcdStore, GoesOnWithAWatchAfterEtcdHasRestarted) {
  EtcdCluster cluster(1);
  auto store = open_or_die(patient_options(cluster.endpoints()));
  Recorder recorder;
  auto watch = store->watch("/a/", recorder.callback());
  ASSERT_TRUE(watch.is_ok()) << watch.message();
  commit_until_answered(*store, {{}, {{"/a/1", "one", 0}}});
  ASSERT_EQ(recorder.await(1).size(), 1u);
  cluster.kill(0);
  cluster.restart(0);
  commit_until_answered(*store, {{}, {{"/a/2", "two", 0}}});
  commit_until_answered(*store, {{}, {{"/a/1", {}, 0}}});
  const auto events = recorder.await(3);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1].value, "two");
  EXPECT_EQ(events[2].key, "/a/1");
  EXPECT_FALSE(events[2].value.has_value());
  EXPECT_LT(events[0].revision, events[1].revision);
  EXPECT_LT(events[1].revision, events[2].revision);
}

TEST(EtcdStore, TellsTheDifferenceOfWhatWasCompactedMeanwhile) {
  EtcdCluster cluster(1);
  auto store = open_or_die(patient_options(cluster.endpoints()));
  commit_until_answered(*store, {{}, {{"/a/gone", "x", 0}, {"/a/same", "x", 0}}});
  Recorder recorder;
  auto watch = store->watch("/a/", recorder.callback());
  ASSERT_TRUE(watch.is_ok()) << watch.message();
  recorder.hold();  // so that the watch does not find the next stream before all has happened
  commit_until_answered(*store, {{}, {{"/a/first", "1", 0}}});
  ASSERT_EQ(recorder.await(1).size(), 1u);
  cluster.kill(0);
  cluster.restart(0);
  for (const char* value : {"2", "3"}) {
    commit_until_answered(*store, {{}, {{"/a/first", value, 0}}});
  }
  commit_until_answered(*store, {{}, {{"/a/gone", {}, 0}}});
  const Revision last = commit_until_answered(*store, {{}, {{"/a/new", "y", 0}}}).revision;
  cluster.compact();
  recorder.release();
  const auto events = recorder.await(4);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[1].key, "/a/first");
  EXPECT_EQ(events[1].value, "3");  // "2" is nowhere any more
  EXPECT_EQ(events[2].key, "/a/new");
  EXPECT_EQ(events[2].revision, last);
  EXPECT_EQ(events[3].key, "/a/gone");
  EXPECT_FALSE(events[3].value.has_value());
  EXPECT_GE(events[3].revision, last);
  commit_until_answered(*store, {{}, {{"/a/first", "4", 0}}});
  EXPECT_EQ(recorder.await(5).back().value, "4");
}

TEST(EtcdStore, TellsTheDifferenceWhenEtcdHasGoneBack) {
  EtcdCluster cluster(1);
  auto store = open_or_die(patient_options(cluster.endpoints()));
  Recorder recorder;
  auto watch = store->watch("/a/", recorder.callback());
  ASSERT_TRUE(watch.is_ok()) << watch.message();
  for (int i = 0; i < 5; ++i) {
    commit_until_answered(*store, {{}, {{"/a/old", std::to_string(i), 0}}});
  }
  ASSERT_EQ(recorder.await(5).size(), 5u);
  cluster.kill(0);
  cluster.forget_all(0);
  cluster.restart(0);
  commit_until_answered(*store, {{}, {{"/a/new", "x", 0}}});
  const auto events = recorder.await(7);
  ASSERT_EQ(events.size(), 7u);
  const WatchEvent& gone = events[5].key == "/a/old" ? events[5] : events[6];
  EXPECT_EQ(gone.key, "/a/old");
  EXPECT_FALSE(gone.value.has_value());
}

TEST(EtcdStore, EndsAWatchThatHasNoEtcd) {
  EtcdCluster cluster(1);
  auto store = open_or_die(patient_options(cluster.endpoints()));
  Recorder recorder;
  auto watch = store->watch("/a/", recorder.callback());
  ASSERT_TRUE(watch.is_ok()) << watch.message();
  store.reset();  // a watch may outlive it
  cluster.kill(0);
  watch->reset();
  EXPECT_TRUE(recorder.await(0).empty());
}

}  // namespace
}  // namespace cvol::meta
